"""A results file with all that estimators are held against: its points, its shapes, what the card had to give."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vram_ledger.analysis.calibrating.calibration import Calibration
from vram_ledger.analysis.evidence.lines import MixedError, counting, invented, measured
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.ground.cards import read_cards
from vram_ledger.analysis.judging.campaign import config_path, model_of, shapes_for, stored_for
from vram_ledger.analysis.refereeing.score import Point, points
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import ResultsFile
from vram_ledger.home import GPUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A results file to hold estimators against.

    left_out: points that ran and that the card's nominal memory does not hold, as a replay can. invented: points that
    read what an emulated card had to invent.
    """

    results: ResultsFile
    shapes: Shapes
    calibration: Calibration | None
    gpu_bytes: int | None
    points: tuple[Point, ...]
    left_out: int
    invented: int

    @property
    def model(self) -> str:
        """The model's name."""
        return model_of(self.results)


def read_campaign(file: Path) -> Campaign:
    """The campaign of a results file, judged by the config that was measured; :class:`MixedError` if nothing counts."""
    campaign = stored_campaign(file)
    if not campaign.points:
        raise MixedError(f"{file}: no point ran that counts, so nothing can be held against it")
    return campaign


def stored_campaign(file: Path) -> Campaign:
    """The same of any results file: it may be that no point ran, or none that the card holds."""
    results = read(file)
    shapes, _ = shapes_for(results, None)
    card = read_cards(GPUS).get(results.environment.card)
    gpu_bytes = card.most_bytes if card else None
    config = config_path(results, None)
    counted = points(results, shapes, str(config), gpu_bytes)
    lines = counting(results.measurements).values()
    return Campaign(
        results=results,
        shapes=shapes,
        calibration=stored_for(results, None),
        gpu_bytes=gpu_bytes,
        points=counted,
        left_out=len(measured(lines)) - len(counted),
        invented=len(invented(lines)),
    )


def campaigns_of(files: Sequence[Path]) -> list[Campaign]:
    """The campaigns of results files, of which a point ran in one at least; :class:`MixedError` if in none.

    A file that is the only one must have points; of several those without are left out: the model did not fit.
    """
    if len(files) == 1:
        return [read_campaign(files[0])]
    found = [campaign for campaign in map(stored_campaign, files) if campaign.points]
    if not found:
        raise MixedError("no campaigns: there is no results file of which a point ran")
    return found
