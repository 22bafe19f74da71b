"""Everything that is stored about one model and one card, ready to answer any number of questions about them."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from analysis.calibration import Calibration, read_calibration
from analysis.campaign import REPOSITORY
from analysis.derivation.derived import Derived
from analysis.derivation.derived_files import configuration_of, read_derived, variant_of
from analysis.drift import configurations
from analysis.evidence import counting, measured
from analysis.model import ConfigError, Shapes, buffers_bytes, read_shapes, weights_bytes
from analysis.predicting.cards import Card
from analysis.predicting.prediction import DOES_NOT_FIT, FITS, Fit, Outside, Prediction, prediction
from analysis.predicting.simulated import Excess, Simulated, read_simulated
from analysis.predicting.sources import (
    Source,
    calibrated_source,
    derived_source,
    measured_source,
    program_source,
)
from analysis.refereeing.breakdown import Request
from harness.records import Configuration, Measured, OutOfMemory, Phase, ResultsFile, Workload, read

ASSUMED_OUTSIDE_BYTES = 2**30
PHASES: tuple[Phase, ...] = ("prefill", "decode")


class NothingKnown(ValueError):
    """A workload about which nothing that is stored says anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """One model in one configuration on one card, or on none in particular.

    model: as it was asked for. sources: by phase, best first. excess: by phase, what the allocator adds. seen: what
    was seen to fit this card, and what was not.
    """

    model: str
    config: Path
    shapes: Shapes
    configuration: Configuration
    card: Card | None
    sources: dict[Phase, tuple[Source, ...]]
    excess: dict[Phase, Excess]
    outside: Outside
    seen: dict[Workload, Fit]

    def predict(self, phase: Phase, batch: int, context_tokens: int) -> Prediction:
        """The answer for one shape; :class:`NothingKnown` if no source has one."""
        configuration = phase_configuration(self.configuration, phase)
        workload = Workload(configuration=configuration, phase=phase, context_tokens=context_tokens, batch=batch)
        label = self.card.label if self.card else ""
        request = Request(workload=workload, shapes=self.shapes, config=str(self.config), gpu_label=label)
        for source in self.sources[phase]:
            requested = source(request)
            if requested is not None:
                return prediction(
                    request,
                    requested,
                    self.card,
                    resident_bytes=self.resident_bytes,
                    excess=self.excess[phase],
                    outside=self.outside,
                    seen=self.seen.get(workload),
                )
        variant = variant_of(configuration)
        raise NothingKnown(
            f"{request.text}: nothing stored tells the transient of variant {variant!r} there; derive its formula "
            f"(make derive MODEL={self.model} VARIANT={variant}), or replay it (python -m harness log)"
        )

    @property
    def resident_bytes(self) -> int:
        """Weights and buffers."""
        model_class = self.configuration.model_class
        width = 4 if self.configuration.dtype == "float32" else 2
        return weights_bytes(self.shapes, model_class, width) + buffers_bytes(self.shapes, model_class)


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What is stored below a results folder, read once. simulated: the allocator's points, by file.

    calibration, derived: the readers, which remember what they read.
    """

    results: Path
    simulated: tuple[Simulated, ...]
    calibration: Callable[[Path], Calibration]
    derived: Callable[[Path], Derived]
    _margins: dict[tuple[str, bool, Phase], Excess] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Path = REPOSITORY / "results") -> "Library":
        """Opens a results folder."""
        files = sorted(results.glob("*/simulated/*.json"))
        return cls(
            results=results,
            simulated=tuple(read_simulated(path) for path in files),
            calibration=functools.cache(read_calibration),
            derived=functools.cache(read_derived),
        )

    def predictor(
        self,
        model: str,
        variant: str = "",
        card: Card | None = None,
        outside_bytes: int | None = None,
        transformers: str = "",
    ) -> Predictor:
        """The predictor of a model: a name in ``configs/models``, a ``config.json``, or the folder of one.

        variant: see :func:`configuration_of`; "" is the class that the config names. outside: what to keep free
        beside the allocator, if not what was measured or assumed. transformers: the version whose derived formula to
        take, else the newest.
        """
        path = config_of(model)
        shapes = read_shapes(path)
        name = known_as(path, shapes)
        configuration = configuration_of(name, variant or default_variant(shapes))
        label = card.label if card else ""
        on_card = list(self._measured(configuration, label)) if label else []
        wanted = {phase: phase_configuration(configuration, phase) for phase in PHASES}
        sources = {
            phase: tuple(self._sources(c, phase, label, shapes, on_card, transformers)) for phase, c in wanted.items()
        }
        return Predictor(
            model=model,
            config=path,
            shapes=shapes,
            configuration=configuration,
            card=_reported(card, on_card),
            sources=sources,
            excess={phase: self._excess(c, phase) for phase, c in wanted.items()},
            outside=_outside(on_card, configuration, outside_bytes),
            seen={workload: fit for results in on_card for workload, fit in _seen(results)},
        )

    def _measured(self, configuration: Configuration, label: str) -> Iterator[ResultsFile]:
        """Results files of this model on this card."""
        for path in sorted(self.results.glob(f"{label}/*/{configuration.model}.cuda.*.jsonl")):
            yield read(path)

    def _sources(
        self,
        configuration: Configuration,
        phase: Phase,
        label: str,
        shapes: Shapes,
        on_card: list[ResultsFile],
        transformers: str,
    ) -> Iterator[Source]:
        for results in on_card:
            yield measured_source(_ran(results, configuration), results.path.name)
        calibrations = [self.calibration(p) for p in self._paths(f"*/*/{configuration.model}.calibration.json")]
        real = [c for c in calibrations if c.environment.device == "cuda"]
        for calibration in sorted(real, key=lambda c: c.environment.gpu_label != label):
            yield calibrated_source(calibration, label)
        pattern = f"*/derived/{configuration.model}.{variant_of(configuration)}.{phase}.*.json"
        formulas = [self.derived(path) for path in self._paths(pattern)]
        chosen = [f for f in formulas if transformers in ("", f.environment.transformers)]
        for formula in sorted(chosen, key=lambda f: _version(f.environment.transformers), reverse=True):
            yield derived_source(formula)
        for calibration in calibrations:
            if calibration not in real:
                yield calibrated_source(calibration, label)
        yield program_source(shapes)

    def _paths(self, pattern: str) -> list[Path]:
        return sorted(self.results.glob(pattern))

    def _excess(self, configuration: Configuration, phase: Phase) -> Excess:
        """From the model's own replays where there are any, else from all of the family's in the same manner."""
        key = configuration.model, configuration.prefill_chunk_tokens > 0, phase
        if key not in self._margins:
            alike = [s for s in self.simulated if _alike(s.configuration, configuration)]
            own = [s for s in alike if s.configuration.model == configuration.model]
            self._margins[key] = Excess([share for s in own or alike for share in s.shares(phase)])
        return self._margins[key]


def _alike(ours: Configuration, theirs: Configuration) -> bool:
    return bool(ours.prefill_chunk_tokens) == bool(theirs.prefill_chunk_tokens)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _ran(results: ResultsFile, configuration: Configuration) -> dict[Workload, Measured]:
    return measured(configurations(results).get(configuration, ()))


def _seen(results: ResultsFile) -> Iterator[tuple[Workload, Fit]]:
    for line in counting(results.measurements).values():
        if isinstance(line.outcome, Measured):
            yield line.workload, FITS
        elif isinstance(line.outcome, OutOfMemory):
            yield line.workload, DOES_NOT_FIT


def phase_configuration(configuration: Configuration, phase: Phase) -> Configuration:
    """The configuration of a phase: a decode step is the same however its prompt was fed, and has one logit row."""
    if phase == "prefill":
        return configuration
    return dataclasses.replace(configuration, prefill_chunk_tokens=0, logits="last")


def _outside(on_card: list[ResultsFile], configuration: Configuration, given: int | None) -> Outside:
    """What was measured on the card beside the allocator's segments; else what is given or assumed."""
    if given is not None:
        return Outside(least_bytes=0, most_bytes=given, source="as given")
    peaks = [m.warm for results in on_card for m in _ran(results, configuration).values()]
    seen = [
        p.process_bytes - p.reserved_bytes
        for p in peaks
        if p.process_bytes is not None and p.reserved_bytes is not None
    ]
    if seen:
        return Outside(least_bytes=min(seen), most_bytes=max(seen), source="measured on this GPU")
    return Outside(least_bytes=0, most_bytes=ASSUMED_OUTSIDE_BYTES, source="assumed: no card was measured yet")


def _reported(card: Card | None, on_card: list[ResultsFile]) -> Card | None:
    """The card with the memory that it reported, if it was measured and the user did not say."""
    totals = [t for r in on_card if (t := r.environment.gpu_total_bytes) is not None]
    if card is None or not totals or card.least_bytes == card.most_bytes:
        return card
    return Card(
        label=card.label, least_bytes=min(totals), most_bytes=max(totals), source="as it reported when measured"
    )


def config_of(model: str) -> Path:
    """The config of a model that is given by name, path or folder; :class:`ConfigError` names those that are known."""
    given = Path(model)
    if given.is_dir():
        given = given / "config.json"
    if given.suffix == ".json" or "/" in model:
        return given
    named = REPOSITORY / "configs" / "models" / f"{model}.json"
    if not named.exists():
        known = ", ".join(sorted(p.stem for p in named.parent.glob("*.json")))
        raise ConfigError(f"no model is named {model!r}: known are {known}; or give the path of a config.json")
    return named


def known_as(path: Path, shapes: Shapes) -> str:
    """The shipped model that a config has the shapes of, as a finetune has; else the config's own name."""
    folder = REPOSITORY / "configs" / "models"
    if path.parent.resolve() == folder:
        return path.stem
    for shipped in sorted(folder.glob("*.json")):
        if read_shapes(shipped) == shapes:
            return shipped.stem
    name = path.parent.resolve().name if path.stem == "config" else path.stem
    return name or path.stem


def default_variant(shapes: Shapes) -> str:
    """The class that a checkpoint with these shapes is loaded as: with its vision tower if it has one."""
    return "default" if shapes.vision else "text"


def with_chunk(variant: str, chunk: int) -> str:
    """A variant's name with a chunked prefill."""
    return f"{variant}-chunk{chunk}" if chunk else variant
