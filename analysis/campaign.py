"""A stored results file with what belongs to it: the model's config, the calibration beside it, the card's memory."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.calibration import Calibration, WrongEnvironment, read_calibration
from analysis.cards import read_cards
from analysis.derivation.derived import Derived
from analysis.derivation.derived_files import stored_formulas
from analysis.evidence import MixedError, counting, invented, measured
from analysis.model import Shapes, read_shapes
from analysis.refereeing.score import Point, points
from harness.records import ResultsFile, read

REPOSITORY = Path(__file__).parents[1]
GPUS = REPOSITORY / "configs" / "gpus.toml"


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


def main_campaigns() -> list[Path]:
    """The stored results of every GPU's main campaign; layouts that nobody publishes are in no calculator either.

    Replays come first: they have every point, whatever a card holds.
    """
    found = REPOSITORY.glob("results/*/default/*.jsonl")
    named = (path for path in found if not path.name.startswith("counterfactual-"))
    return sorted(named, key=lambda path: (".fake." not in path.name, path))


def campaigns_of(files: Sequence[Path] | None) -> list[Campaign]:
    """The campaigns of these files; else the main ones in results/ of which a point ran."""
    if files:
        return [read_campaign(path) for path in files]
    return [campaign for campaign in map(stored_campaign, main_campaigns()) if campaign.points]


def model_of(results: ResultsFile) -> str:
    """The one model of a results file; :class:`MixedError` if it has none, several, or one that is a path."""
    models = list(dict.fromkeys(m.workload.configuration.model for m in results.measurements))
    if not models:
        raise MixedError(f"{results.path}: no measurements yet")
    if len(models) > 1:
        raise MixedError(f"{results.path}: configuration.model is {' and '.join(models)}; one file has one model")
    if Path(models[0]).name != models[0]:
        raise MixedError(f"{results.path}: {models[0]!r} is not the name of a model")
    return models[0]


def config_path(results: ResultsFile, given: Path | None) -> Path:
    """The config to judge against: the given one, else the measured model's own in ``configs/models``."""
    return given or REPOSITORY / "configs" / "models" / f"{model_of(results)}.json"


def shapes_for(results: ResultsFile, given: Path | None) -> tuple[Shapes, str]:
    """The shapes to expect, and a note if the config is not the measured one.

    :class:`WrongEnvironment` if the repository's own config is not the file that was measured. A given one may
    differ: that is how another assumption is put to the test.
    """
    path = config_path(results, given)
    model_of(results)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    measured = results.environment.config_sha256
    if found == measured:
        return read_shapes(path), ""
    difference = f"{path} is not the config that was measured: sha256 {found[:12]}, measured {measured[:12]}"
    if given is None:
        raise WrongEnvironment(difference)
    return read_shapes(path), f"note: {difference}"


def stored_for(results: ResultsFile, given: Path | None) -> Calibration | None:
    """The calibration to judge against, if one was given or lies beside the results file."""
    path = given or calibration_path(results)
    return read_calibration(path) if given or path.exists() else None


def calibration_path(results: ResultsFile) -> Path:
    """Where a results file's calibration belongs."""
    return results.path.with_name(f"{model_of(results)}.calibration.json")


def formulas_for(results: ResultsFile) -> tuple[Derived, ...]:
    """The derived formulas of the measured model, of whatever software and card; those of this very card first."""
    folders = sorted((REPOSITORY / "results").glob("*/derived"))
    own = f"fake-{results.environment.card}"
    folders.sort(key=lambda folder: folder.parent.name != own)
    return tuple(formula for folder in folders for formula in stored_formulas(folder, model_of(results)))
