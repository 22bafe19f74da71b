"""Everything that is stored about the models and the cards, from which a predictor of one of each is made."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path

from vram_ledger.analysis.calibrating.calibration import Calibration, read_calibration
from vram_ledger.analysis.derivation.derived import Derived
from vram_ledger.analysis.derivation.derived_files import (
    MODEL_CLASSES,
    configuration_of,
    read_derived,
    variant_of,
    version,
)
from vram_ledger.analysis.evidence.lines import counting, measured
from vram_ledger.analysis.formula.config import ConfigError, read_config
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.ground.cards import GIVEN, Card
from vram_ledger.analysis.ground.kinds import EMULATED, MEASURED, ON_A_CPU, REPLAYED, kind_of
from vram_ledger.analysis.judging.drift import configurations
from vram_ledger.analysis.predicting import program
from vram_ledger.analysis.predicting.configs import config_of, default_variant, known_as, with_chunk
from vram_ledger.analysis.predicting.prediction import DOES_NOT_FIT, FITS, Outside, Seen
from vram_ledger.analysis.predicting.predictor import Known, Predictor, asked_configuration
from vram_ledger.analysis.predicting.simulated import Excess, Simulated, read_simulated
from vram_ledger.analysis.predicting.sources import (
    Source,
    calibrated_source,
    derived_source,
    measured_source,
    program_source,
)
from vram_ledger.analysis.predicting.workspace import capability_of, workspace_of
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import Configuration, Environment, Measured, OutOfMemory, Phase, ResultsFile, Workload
from vram_ledger.home import GPUS, RESULTS

ASSUMED_OUTSIDE_BYTES = 2**30
MOST_CONTEXT_TOKENS = 262_144  # of a config that says none: what the family was trained for
QUESTIONS: tuple[tuple[Phase, int], ...] = (("prefill", 10**9), ("prefill", 1), ("decode", 1))  # one of each kind


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
    def of(cls, results: Path = RESULTS) -> "Library":
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
        chunk: int = 0,
    ) -> Predictor:
        """The predictor of a model: a name in ``configs/models``, a ``config.json``, or the folder of one.

        variant: see :func:`configuration_of`; "" is the class that the config names. outside: what to keep free
        beside the allocator, if not what was measured or assumed. transformers: the version to which all that is
        used must belong, "" for the newest. chunk: tokens of a prefill's chunks, 0 for a single shot or what the
        variant says. :class:`ConfigError` for a vision tower that is not in the config.
        """
        path = config_of(model)
        config = read_config(path)
        shapes = config.shapes
        configuration = configuration_of(path.stem, with_chunk(variant or default_variant(config), chunk))
        if configuration.model_class == MODEL_CLASSES["default"] and shapes.vision is None:
            raise ConfigError(
                f'{path}: no vision_config, so there is no variant {variant!r}; "text" is the class it has'
            )
        configuration = dataclasses.replace(configuration, model=known_as(path, shapes, configuration.model_class))
        label = card.label if card else ""
        on_card = [r for r in self._on_card(configuration, label) if transformers in ("", r.environment.transformers)]
        measured_there = [r for r in on_card if kind_of(r.environment) is MEASURED]
        wanted = [(asked_configuration(configuration, phase, tokens), phase) for phase, tokens in QUESTIONS]
        known = {
            (c, phase): Known(
                sources=tuple(self._sources(c, phase, label, shapes, on_card, transformers)),
                excess=self._excess(c, phase),
            )
            for c, phase in dict.fromkeys(wanted)
        }
        # What a card was seen to hold says nothing of another memory, or of another share kept free.
        given = outside_bytes is not None or (card is not None and card.source == GIVEN)
        return Predictor(
            model=model,
            transformers=transformers,
            config=path,
            shapes=shapes,
            most_context_tokens=config.most_context_tokens or MOST_CONTEXT_TOKENS,
            configuration=configuration,
            card=_reported(card, measured_there),
            known=known,
            workspace=workspace_of(label, on_card, GPUS),
            outside=_outside(measured_there, outside_bytes),
            seen={} if given else {w: seen for results in reversed(on_card) for w, seen in _seen(results)},
        )

    def _on_card(self, configuration: Configuration, label: str) -> Iterator[ResultsFile]:
        """Results files of this model on this card, those of the real one before an emulated one's; none without."""
        for folder, device in ((label, "cuda"), (f"emulated-{label}", "emulated")) if label else ():
            for path in self._paths(folder, "*", f"{escape(configuration.model)}.{device}.*.jsonl"):
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
        model, capability = escape(configuration.model), capability_of(label, GPUS)

        def tells(environment: Environment) -> bool:
            same = _masks_alike(configuration, environment, capability)
            return same and transformers in ("", environment.transformers)

        stored = map(self.calibration, self._paths("*", "*", f"{model}.calibration.json"))
        calibrations = [c for c in stored if tells(c.environment)]
        here = [c for c in calibrations if c.environment.card == label]
        for kind in (MEASURED, EMULATED):
            for results in on_card:
                if kind_of(results.environment) is kind:
                    yield measured_source(_ran(results, configuration), results.environment, results.path.name)
            for calibration in here:
                if kind_of(calibration.environment) is kind:
                    yield calibrated_source(calibration, label)
        for calibration in calibrations:
            if kind_of(calibration.environment) is MEASURED and calibration not in here:
                yield calibrated_source(calibration, label)
        paths = self._paths("*", "derived", f"{model}.{variant_of(configuration)}.{phase}.*.json")
        formulas = map(self.derived, paths)
        chosen = [f for f in formulas if tells(f.environment)]
        for formula in sorted(chosen, key=lambda f: version(f.environment.transformers), reverse=True):
            yield derived_source(formula)
        for kind in (EMULATED, REPLAYED, ON_A_CPU):
            for calibration in calibrations:
                if kind_of(calibration.environment) is kind and not (kind is EMULATED and calibration in here):
                    yield calibrated_source(calibration, label)
        if transformers in ("", *program.TRANSFORMERS):
            yield program_source(shapes, capability)

    def _paths(self, *parts: str) -> list[Path]:
        return sorted(self.results.glob("/".join(parts)))

    def _excess(self, configuration: Configuration, phase: Phase) -> Excess:
        """From the model's own replays where there are any, else from all of the family's in the same manner."""
        key = configuration.model, configuration.prefill_chunk_tokens > 0, phase
        if key not in self._margins:
            alike = [s for s in self.simulated if s.chunked == key[1]]
            own = [s for s in alike if s.configuration.model == configuration.model]
            shares = [share for s in own or alike for share in s.shares(phase)]
            self._margins[key] = Excess(shares, "of this model" if own else "of others of the family")
        return self._margins[key]


def _masks_alike(configuration: Configuration, environment: Environment, capability: str) -> bool:
    """Whether a later chunk's attention, if there is one, takes one kernel there and on a card of this capability.

    A decode step with a static cache has a mask, too, but never its peak where it attends.
    """
    there = environment.gpu_capability or ""
    alike = program.masks_by_cudnn(there) == program.masks_by_cudnn(capability)
    return alike or not configuration.prefill_chunk_tokens


def _ran(results: ResultsFile, configuration: Configuration) -> dict[Workload, Measured]:
    return measured(configurations(results).get(configuration, ()))


def _seen(results: ResultsFile) -> Iterator[tuple[Workload, Seen]]:
    word = kind_of(results.environment).word
    for line in counting(results.measurements).values():
        if isinstance(line.outcome, Measured) and not line.outcome.guessed:
            yield line.workload, Seen(fit=FITS, word=word)
        elif isinstance(line.outcome, OutOfMemory):
            yield line.workload, Seen(fit=DOES_NOT_FIT, word=word)


def _outside(on_card: list[ResultsFile], given: int | None) -> Outside:
    """What is given; else what was measured on the card beside the allocator's segments; else what is assumed."""
    if given is not None:
        return Outside(least_bytes=given, most_bytes=given, source="as given", given=True)
    peaks = [m.warm for r in on_card for lines in configurations(r).values() for m in measured(lines).values()]
    seen = [
        p.process_bytes - p.reserved_bytes
        for p in peaks
        if p.process_bytes is not None and p.reserved_bytes is not None
    ]
    if seen:
        return Outside(least_bytes=min(seen), most_bytes=max(seen), source="measured on this GPU")
    return Outside(least_bytes=0, most_bytes=ASSUMED_OUTSIDE_BYTES, source="assumed: not measured on this GPU")


def _reported(card: Card | None, on_card: list[ResultsFile]) -> Card | None:
    """The card with the memory that it reported, if it was measured and the user did not say."""
    totals = [t for r in on_card if (t := r.environment.gpu_total_bytes) is not None]
    if card is None or not totals or card.source == GIVEN:
        return card
    return Card(
        label=card.label, least_bytes=min(totals), most_bytes=max(totals), source="as it reported when measured"
    )
