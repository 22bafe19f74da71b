"""What belongs to a results file: the model's config, its calibration, the formulas of the program that it ran."""

import hashlib
from pathlib import Path

from vram_ledger.analysis.calibrating.calibration import Calibration, read_calibration
from vram_ledger.analysis.derivation.derived_files import stored_formulas
from vram_ledger.analysis.derivation.program import Program
from vram_ledger.analysis.evidence.lines import MixedError
from vram_ledger.analysis.formula.config import read_shapes
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.errors import WrongEnvironment
from vram_ledger.harness.records import ResultsFile
from vram_ledger.home import MODELS, RESULTS


def main_campaigns(results: Path = RESULTS) -> list[Path]:
    """The stored results of every GPU's main campaign; layouts that nobody publishes are in no calculator either.

    Replays come first: they have every point, whatever a card holds.
    """
    found = results.glob("*/default/*.jsonl")
    named = (path for path in found if not path.name.startswith("counterfactual-"))
    return sorted(named, key=lambda path: (".fake." not in path.name, path))


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
    return given or MODELS / f"{model_of(results)}.json"


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
    """The calibration to judge against: the given one, else the one beside the file, else the published one."""
    own = calibration_path(results)
    published = RESULTS / results.environment.gpu_label / results.path.absolute().parent.name / own.name
    path = next((p for p in (given, own, published) if p is not None and (p == given or p.exists())), None)
    return None if path is None else read_calibration(path)


def calibration_path(results: ResultsFile) -> Path:
    """Where a results file's calibration belongs."""
    return results.path.with_name(f"{model_of(results)}.calibration.json")


def formulas_for(results: ResultsFile) -> tuple[Program, ...]:
    """The derived formulas of the measured model, of whatever software and card; those of this very card first."""
    folders = sorted(RESULTS.glob("*/derived"))
    own = f"emulated-{results.environment.card}"
    folders.sort(key=lambda folder: folder.parent.name != own)
    return tuple(Program(formula) for folder in folders for formula in stored_formulas(folder, model_of(results)))
