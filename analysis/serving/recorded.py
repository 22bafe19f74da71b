"""What stock servers planned on emulated cards (``results/oracle/``): figures for what no formula here has.

A record has what the server's own objects say (``planned``). Of it the activation peak takes the place of the interval
that logs leave, for the same model and class; the rest holds the formulas: tests/test_serving.py asks them the same.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_ledger.analysis.serving.plan import Span
from vram_ledger.errors import InputError
from vram_ledger.home import RESULTS

FOLDER, SCHEMA = "oracle", 1


class OracleError(InputError):
    """A record that can't be read; the message names the file and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A server's plan on an emulated card. ``None``: its version has no such figure."""

    path: Path
    runtime: str
    version: str
    card: str
    model: str
    text: bool
    prefix_caching: bool
    batched_tokens: int | None
    weights_bytes: int | None
    activation_bytes: int | None
    pool_bytes: int | None
    blocks: int | None
    block_tokens: int | None


def records(results: Path = RESULTS) -> tuple[Recorded, ...]:
    """Every stored record, in the order of their files."""
    return tuple(map(read_record, sorted((results / FOLDER).glob("**/*.json"))))


def read_record(path: Path) -> Recorded:
    """One record; :class:`OracleError` names what it lacks."""
    return _read(path, path.stat().st_mtime_ns)


@functools.cache
def _read(path: Path, changed_ns: int) -> Recorded:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise OracleError(f"{path}: schema {data['schema']!r}; known is {SCHEMA}")
        planned = data["planned"]
        return Recorded(
            path=path,
            runtime=data["runtime"],
            version=data["versions"][data["runtime"]],
            card=data["card"]["label"],
            model=data["model"],
            text=data["variant"] == "text",
            prefix_caching=bool(planned.get("prefix_caching")) and planned.get("state_mode") != "none",
            batched_tokens=planned.get("most_batched_tokens"),
            weights_bytes=planned.get("weights_bytes"),
            activation_bytes=planned.get("activation_bytes"),
            pool_bytes=planned.get("pool_bytes"),
            blocks=planned.get("blocks"),
            block_tokens=planned.get("block_tokens"),
        )
    except json.JSONDecodeError as error:
        raise OracleError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise OracleError(f"{path}: no record of a server's plan, it lacks {error}") from error


def activation(runtime: str, model: str, text: bool, card: str, found: tuple[Recorded, ...]) -> tuple[Span, str] | None:
    """The activation peak of a model and class: on this card, else on any; ``None`` where nobody asked.

    It goes with the tokens that the server batches, which it chooses by the card.
    """
    same = [r for r in found if (r.runtime, r.model, r.text) == (runtime, model, text) and r.activation_bytes]
    here = [r for r in same if r.card == card] or same
    if not here:
        return None
    sizes = [r.activation_bytes or 0 for r in here]
    cards = ", ".join(sorted({r.card for r in here}))
    versions = ", ".join(sorted({r.version for r in here}))
    batched = ", ".join(f"{n:,}" for n in sorted({r.batched_tokens or 0 for r in here}) if n)
    return Span(least=min(sizes), most=max(sizes)), f"emulated: vLLM {versions} on {cards}, {batched} tokens batched"
