"""What figures are drawn of: one configuration of one campaign, with the formula that answers for it."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vram_ledger.analysis.derivation.derived import OtherProgram, OutsideDomain
from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.derivation.program import Program, shape_of
from vram_ledger.analysis.estimating.breakdown import Breakdown, Estimator, EstimatorError, Request
from vram_ledger.analysis.estimating.ours import cache_at_peak, calibrated
from vram_ledger.analysis.evidence.lines import invented, measured, workspace_bytes
from vram_ledger.analysis.formula.terms import transient_bytes
from vram_ledger.analysis.ground.kinds import Kind, kind_of
from vram_ledger.analysis.judging.campaign import config_path, formulas_for
from vram_ledger.analysis.judging.drift import configurations
from vram_ledger.analysis.refereeing.campaign import Campaign
from vram_ledger.harness.records import PHASES, Configuration, Measured, OutOfMemory, Phase, Workload

SEGMENTS = ("weights + buffers", "KV cache", "states", "inputs, logits", "transient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """A formula of one phase. name: what it is called in a caption. peak: bytes, ``None`` where it can't tell."""

    name: str
    peak: Callable[[Workload], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One configuration of a campaign. name: what its figures' files start with. derived: its program's formulas.

    refused: what ran out of memory. invented: what ran on values that an emulated card had to invent, and counts
    nowhere.
    """

    name: str
    campaign: Campaign
    config: str
    configuration: Configuration
    ran: dict[Workload, Measured]
    refused: dict[Workload, OutOfMemory]
    invented: dict[Workload, Measured]
    derived: tuple[Program, ...]
    formulas: dict[Phase, Formula]

    @property
    def kind(self) -> Kind:
        """Whether its points were measured, emulated or replayed."""
        return kind_of(self.campaign.results.environment)

    @property
    def model(self) -> str:
        """Which model, in which variant."""
        return f"{self.configuration.model} · {variant_of(self.configuration)}"

    @property
    def subject(self) -> str:
        """Which model, in which variant, on what card."""
        return f"{self.model} · {self.campaign.results.environment.gpu_label}"

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that have points."""
        return tuple(phase for phase in PHASES if any(w.phase == phase for w in self.ran))

    def points(self, phase: Phase) -> dict[tuple[int, int], Measured]:
        """What ran in a phase, by (context, batch), in that order."""
        return {
            (w.context_tokens, w.batch): self.ran[w]
            for w in sorted(self.ran, key=lambda w: (w.context_tokens, w.batch))
            if w.phase == phase
        }

    def out_of_memory(self, phase: Phase) -> dict[tuple[int, int], OutOfMemory]:
        """What ran out of memory in a phase, by (context, batch), in that order."""
        own = {(w.context_tokens, w.batch): outcome for w, outcome in self.refused.items() if w.phase == phase}
        return dict(sorted(own.items()))

    def batches(self, phase: Phase) -> tuple[int, ...]:
        """Batches of a phase, ascending, whether they ran or ran out of memory."""
        return tuple(sorted({b for _, b in (*self.points(phase), *self.out_of_memory(phase))}))

    def contexts(self, phase: Phase) -> tuple[int, ...]:
        """Contexts of a phase, ascending, whether they ran or ran out of memory."""
        return tuple(sorted({c for c, _ in (*self.points(phase), *self.out_of_memory(phase))}))

    def workload(self, phase: Phase, context_tokens: int, batch: int) -> Workload:
        """A workload of this configuration, measured or not."""
        return Workload(configuration=self.configuration, phase=phase, context_tokens=context_tokens, batch=batch)

    def fits(self, requested_bytes: int) -> bool:
        """Whether the card's memory holds so much; every card does where it is not known."""
        return self.campaign.gpu_bytes is None or requested_bytes <= self.campaign.gpu_bytes

    def request(self, workload: Workload) -> Request:
        """The question to an estimator."""
        return Request(
            workload=workload,
            shapes=self.campaign.shapes,
            config=self.config,
            gpu_label=self.campaign.results.environment.card,
            gpu_bytes=self.campaign.gpu_bytes,
        )

    def answer(self, estimator: Estimator, workload: Workload) -> Breakdown | None:
        """What an estimator says; ``None`` where it has no answer."""
        try:
            return estimator(self.request(workload))
        except EstimatorError:
            return None

    def ask(self, estimator: Estimator, workload: Workload) -> int | None:
        """An estimator's total; ``None`` where it has no answer."""
        found = self.answer(estimator, workload)
        return None if found is None else found.total_bytes


def parts_of(campaign: Campaign) -> tuple[Part, ...]:
    """The configurations of a campaign of which a point ran, in the file's order."""
    stored = formulas_for(campaign.results)
    parts = []
    for configuration, lines in configurations(campaign.results).items():
        ran = measured(lines)
        if ran:
            derived = tuple(f for phase in PHASES for f in _nearest(phase, stored, campaign, ran))
            part = Part(
                name=file_name(campaign.results.environment.gpu_label, configuration),
                campaign=campaign,
                config=str(config_path(campaign.results, None)),
                configuration=configuration,
                ran=ran,
                refused={m.workload: m.outcome for m in lines if isinstance(m.outcome, OutOfMemory)},
                invented=invented(lines),
                derived=derived,
                formulas={},
            )
            part.formulas.update(_formulas(part))
            parts.append(part)
    return tuple(parts)


def file_name(*words: str | Configuration) -> str:
    """Words that are safe in the name of a file and of an element, whatever was measured."""
    texts = [w if isinstance(w, str) else f"{w.model}.{variant_of(w)}" for w in words]
    return re.sub(r"[^A-Za-z0-9._-]", "_", ".".join(texts))


def _nearest(
    phase: Phase, stored: Iterable[Program], campaign: Campaign, ran: dict[Workload, Measured]
) -> tuple[Program, ...]:
    """The formula of a phase of the very program that was measured, if there is one."""
    own = [f for f in stored if f.derived.phase == phase and _of_program(f, campaign, ran)]
    return tuple(sorted(own, key=lambda f: f.derived.distance(campaign.results.environment))[:1])


def _of_program(program: Program, campaign: Campaign, ran: dict[Workload, Measured]) -> bool:
    """Whether the formula is of the very program that was measured."""
    own = next((w for w in ran if w.phase == program.derived.phase), None)
    if own is None:
        return False
    try:
        program.derived.check(own, campaign.results.environment, ran[own].kernels)
    except OtherProgram:
        return False
    return True


def _formulas(part: Part) -> Iterable[tuple[Phase, Formula]]:
    """Of each phase the derived formula, else the fitted one; none where neither is stored.

    A card's libraries have a workspace, which is no part of the program; it is the same at every point.
    """
    calibration = part.campaign.calibration
    for phase in part.phases:
        derived = next((f for f in part.derived if f.derived.phase == phase), None)
        if derived is not None:
            workspace = max(workspace_bytes(part.ran[w]) for w in part.ran if w.phase == phase)
            beside = f" and a workspace of {workspace:,} bytes" if workspace else ""
            yield (
                phase,
                Formula(name=f"the formula derived from the program{beside}", peak=_derived_peak(derived, workspace)),
            )
        elif calibration is not None:
            estimator = calibrated(calibration)
            yield (
                phase,
                Formula(name="the fitted formula", peak=lambda w, e=estimator: part.ask(e, w)),  # type: ignore[misc]
            )


def _derived_peak(program: Program, workspace: int) -> Callable[[Workload], int | None]:
    def peak(workload: Workload) -> int | None:
        try:
            return program.peak_bytes(*shape_of(workload)) + workspace
        except OutsideDomain:
            return None

    return peak


def ledger(workload: Workload, outcome: Measured) -> dict[str, int]:
    """The bytes of a measured peak by segment; together they are the peak, to the byte.

    Weights have buffers and workspace with them, states are recurrent and conv state, inputs have the logits where the
    peak is in the head. The transient is the rest, and may be below 0 where something of the rest is not yet there at
    the peak.
    """
    held = outcome.held
    logits = held.logits_bytes if outcome.site.stage == "lm_head" else 0
    values = (
        outcome.baseline_bytes,
        cache_at_peak(workload, held.kv_cache_bytes),
        held.recurrent_state_bytes + held.conv_state_bytes,
        held.inputs_bytes + held.media_bytes + logits,
        transient_bytes(workload, outcome),
    )
    return dict(zip(SEGMENTS, values, strict=True))


def chosen(part: Part, phase: Phase, most: int = 7) -> tuple[tuple[int, int], ...]:
    """Points, (context, batch), that show a breakdown: of the smallest, middle and largest batch a short context and
    the longest that the card holds.
    """
    points, batches = part.points(phase), part.batches(phase)
    found: list[tuple[int, int]] = []
    for batch in dict.fromkeys((batches[0], batches[len(batches) // 2], batches[-1])):
        contexts = [c for (c, b), m in points.items() if b == batch and part.fits(m.warm.requested_bytes)]
        if contexts:
            short = next((c for c in contexts if c >= 4096), contexts[-1])
            found += [(short, batch), *([(contexts[len(contexts) * 2 // 3], batch)] if batch == batches[0] else [])]
            found.append((contexts[-1], batch))
    return tuple(sorted(dict.fromkeys(found), key=lambda p: (p[1], p[0])))[:most]
