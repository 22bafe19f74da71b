"""Everything that is stored about the models and the cards, from which a predictor of one of each is made."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from vram_ledger.analysis.allocation.rules import AllocatorError
from vram_ledger.analysis.allocation.settings import Rules, rules_set
from vram_ledger.analysis.derivation.derived_files import (
    MODEL_CLASSES,
    configuration_of,
    read_derived,
    variant_of,
    version,
)
from vram_ledger.analysis.derivation.forms import MOST_CONTEXT_TOKENS
from vram_ledger.analysis.derivation.program import Device, Program
from vram_ledger.analysis.evidence.lines import counting, measured
from vram_ledger.analysis.formula.config import ConfigError, read_config
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.analysis.ground.cards import GIVEN, Card, multiprocessors_of
from vram_ledger.analysis.ground.kinds import EMULATED, MEASURED, kind_of
from vram_ledger.analysis.judging.drift import configurations
from vram_ledger.analysis.predicting import program as symbols
from vram_ledger.analysis.predicting.configs import config_of, default_variant, known_as, with_chunk
from vram_ledger.analysis.predicting.kernels import FLASH, derived_on
from vram_ledger.analysis.predicting.prediction import DOES_NOT_FIT, FITS, Outside, Seen
from vram_ledger.analysis.predicting.predictor import Predictor, asked_configuration
from vram_ledger.analysis.predicting.sources import Source, counted_source, derived_source, symbols_source
from vram_ledger.analysis.predicting.workspace import Workspace, capability_of, workspace_of
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import Configuration, Measured, OutOfMemory, Phase, ResultsFile, Workload
from vram_ledger.home import GPUS, MODELS, RESULTS, RUNS

ASSUMED_OUTSIDE_BYTES = 2**30
QUESTIONS: tuple[tuple[Phase, int], ...] = (("prefill", 10**9), ("prefill", 1), ("decode", 1))  # one of each kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What is stored below results folders. program: the reader of a derived program, which remembers what it read."""

    folders: tuple[Path, ...]
    program: Callable[[Path], Program]

    @classmethod
    def of(cls, *folders: Path) -> "Library":
        """Opens results folders; by default the published ones, and what was derived here (``runs``)."""
        return cls(
            folders=folders or (RESULTS, RUNS), program=functools.cache(lambda path: Program(read_derived(path)))
        )

    def predictor(
        self,
        model: str,
        variant: str = "",
        card: Card | None = None,
        outside_bytes: int | None = None,
        transformers: str = "",
        chunk: int = 0,
        rules: Rules = "default",
    ) -> Predictor:
        """The predictor of a model: a name in ``configs/models``, a ``config.json``, or the folder of one.

        variant: see :func:`configuration_of`; "" is the class that the config names. outside: what to keep free
        beside the allocator, if not what was measured or assumed. transformers: the version to which all that is
        used must belong, "" for the newest. chunk: tokens of a prefill's chunks, 0 for a single shot or what the
        variant says. rules: those by which the allocator is to go. :class:`ConfigError` for a vision tower that is
        not in the config.
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
        on_card = [
            results
            for results in self._on_card(configuration, label)
            if transformers in ("", results.environment.transformers) and _goes_by(results, rules)
        ]
        measured_there = [r for r in on_card if kind_of(r.environment) is MEASURED]
        wanted = [(asked_configuration(configuration, phase, tokens), phase) for phase, tokens in QUESTIONS]
        sources = {
            (c, phase): tuple(self._sources(c, phase, path, card, shapes, on_card, transformers, rules))
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
            capability=capability_of(label, GPUS) if label else FLASH,
            rules=rules,
            card=_reported(card, measured_there),
            sources=sources,
            outside=_outside(measured_there, outside_bytes),
            seen={} if given else {w: seen for results in measured_there for w, seen in _seen(results)},
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
        config: Path,
        card: Card | None,
        shapes: Shapes,
        on_card: list[ResultsFile],
        transformers: str,
        rules: Rules,
    ) -> Iterator[Source]:
        label = card.label if card else ""
        for kind in (MEASURED, EMULATED):
            for results in on_card:
                if kind_of(results.environment) is kind:
                    yield counted_source(_ran(results, configuration), results.environment, results.path.name)
        capability, workspace = capability_of(label, GPUS), workspace_of(label, on_card, GPUS)
        wanted = derived_on(capability, phase, configuration) if label else FLASH
        for program in self._programs(configuration, phase, wanted, config):
            if transformers in ("", program.derived.environment.transformers):
                yield derived_source(program, self._device(program, card, workspace, rules))
        if transformers in ("", *symbols.TRANSFORMERS):
            yield symbols_source(shapes, capability, workspace.most_bytes)

    def programs(self, results: ResultsFile) -> Callable[[Phase], Program | None]:
        """The program of a phase that a results file ran, as far as one is stored."""
        environment = results.environment

        def program(phase: Phase) -> Program | None:
            configuration = next(p.workload.configuration for p in results.probes if p.workload.phase == phase)
            wanted = derived_on(environment.gpu_capability or "", phase, configuration)
            for found in self._programs(configuration, phase, wanted):
                if found.derived.environment.transformers == environment.transformers:
                    return found
            return None

        return program

    def programs_on(self, model: str, card: Card | None, rules: Rules = "default") -> Iterator[tuple[Program, Device]]:
        """Every stored program of a model as a card runs it, of the newest software, and what of the card decides.

        Without a card, as it runs where attention is flash's. Models that are not shipped have none but their own.
        """
        path = config_of(model)
        config = read_config(path)
        label = card.label if card else ""
        capability = capability_of(label, GPUS) if label else FLASH
        workspace = workspace_of(label, [], GPUS)
        named = {known_as(path, config.shapes, configuration_of(path.stem, name).model_class) for name in MODEL_CLASSES}
        files = {p for name in named for p in self._paths("*", "derived", f"{escape(name)}.*.json")}
        found = {(d.configuration, d.phase) for d in (self.program(p).derived for p in sorted(files))}
        for configuration, phase in sorted(found, key=str):
            wanted = derived_on(capability, phase, configuration)
            for program in self._programs(configuration, phase, wanted, path)[:1]:
                yield program, self._device(program, card, workspace, rules)

    def _programs(
        self, configuration: Configuration, phase: Phase, capability: str | None, config: Path | None = None
    ) -> list[Program]:
        """Those of a configuration as derived on a card of that capability, of the newest software first.

        config: a model that is not shipped has no other name than its file's, so the file must be the same, too.
        """
        name = f"{escape(configuration.model)}.{_program_of(configuration)}.{phase}.*.json"
        found = map(self.program, self._paths("*", "derived", name))
        chosen = [p for p in found if p.derived.environment.gpu_capability == capability]
        if config is not None and not (MODELS / f"{configuration.model}.json").exists():
            digest = hashlib.sha256(config.read_bytes()).hexdigest()
            chosen = [p for p in chosen if p.derived.environment.config_sha256 == digest]
        return sorted(chosen, key=lambda p: version(p.derived.environment.transformers), reverse=True)

    @staticmethod
    def _device(program: Program, card: Card | None, workspace: Workspace, rules: Rules) -> Device:
        """What of a card decides; without one, of that on which the program was derived."""
        environment = program.derived.environment
        if card is None:
            return Device(
                multiprocessors=environment.gpu_multiprocessors or 0,
                workspace_bytes=program.derived.build.sizes[0],
                total_bytes=environment.gpu_total_bytes,
                rules=rules,
            )
        return Device(
            multiprocessors=multiprocessors_of(card.label, GPUS) or 0,
            workspace_bytes=workspace.most_bytes,
            total_bytes=card.most_bytes,
            rules=rules,
        )

    def _paths(self, *parts: str) -> list[Path]:
        return [path for folder in self.folders for path in sorted(folder.glob("/".join(parts)))]


def _program_of(configuration: Configuration) -> str:
    """The variant whose program has a configuration: that of a prefill has its calls in chunks of any size."""
    return variant_of(dataclasses.replace(configuration, prefill_chunk_tokens=0))


def _goes_by(results: ResultsFile, rules: Rules) -> bool:
    """Whether a card's allocator had the settings that are asked about."""
    try:
        return rules_set(results.environment.allocator_settings) == rules
    except AllocatorError:
        return False


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
