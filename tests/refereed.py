"""The stored campaign that the tests hold estimators against, and the command that does it."""

import functools

from tests.conftest import BIG
from tests.invoked import Result, invoke
from vram_ledger.analysis.judging.campaign import main_campaigns
from vram_ledger.analysis.refereeing.campaign import Campaign, read_campaign

# The first request, which every error must name.
FIRST_REQUEST = "qwen3.5-27b, decode, B=1, L=512: "


@functools.cache
def campaign(model: str = BIG) -> Campaign:
    """The main campaign of a model."""
    return next(c for c in map(read_campaign, main_campaigns()) if c.model == model)


def run(*arguments: object) -> Result:
    """``python -m vram_ledger validate`` on that campaign."""
    file = campaign().results.path
    return invoke("validate", *(str(a) for a in arguments), "--file", str(file))
