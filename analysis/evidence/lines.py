"""From the lines of a results file to fitted terms: which lines count, which belong together, and the fits of each.

Nothing here knows what to expect; :mod:`analysis.judging.drift` compares.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from vram_ledger.analysis.evidence.fit import (
    Fit,
    Unidentifiable,
    held_counts,
    least_squares,
    merged_columns,
    plain_columns,
)
from vram_ledger.analysis.formula.terms import (
    COLUMNS,
    Regime,
    exact_terms,
    phase_regime,
    regime_of,
    transient_bytes,
    transient_columns,
)
from vram_ledger.errors import InputError
from vram_ledger.harness.records import Configuration, Environment, Failure, Measured, Measurement, Phase, Workload


class MixedError(InputError):
    """Points that may not share a fit; the message names every field in which they differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A workload that ran and the bytes that a term had in it."""

    workload: Workload
    observed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTerm:
    """The fit of one term of one configuration in one regime, and what it was fitted to."""

    configuration: Configuration
    term: str
    regime: Regime
    samples: tuple[Sample, ...]
    fit: Fit | Unidentifiable


def counting(measurements: Iterable[Measurement]) -> dict[tuple[Workload, int], Measurement]:
    """The line that counts for each workload and repeat: the last that is not a failure, else the last failure."""
    lines: dict[tuple[Workload, int], Measurement] = {}
    for line in measurements:
        key = (line.workload, line.repeat)
        if key not in lines or not isinstance(line.outcome, Failure) or isinstance(lines[key].outcome, Failure):
            lines[key] = line
    return lines


def measured(lines: Iterable[Measurement], repeat: int = 0) -> dict[Workload, Measured]:
    """What ran on nothing but real values, by workload, from lines of which one counts for each workload and repeat.

    What read invented ones (:func:`invented`) is evidence of nothing: the program may go another way on a card.
    """
    return {w: m for w, m in _ran(lines, repeat) if not m.guessed}


def invented(lines: Iterable[Measurement], repeat: int = 0) -> dict[Workload, Measured]:
    """What ran and read values that an emulated card had to invent, by workload."""
    return {w: m for w, m in _ran(lines, repeat) if m.guessed}


def _ran(lines: Iterable[Measurement], repeat: int) -> Iterator[tuple[Workload, Measured]]:
    return (
        (line.workload, line.outcome) for line in lines if line.repeat == repeat and isinstance(line.outcome, Measured)
    )


def same_configuration(workloads: Iterable[Workload]) -> Configuration:
    """The configuration of all the workloads; :class:`MixedError` if it is not one."""
    configurations = list(dict.fromkeys(workload.configuration for workload in workloads))
    if not configurations:
        raise MixedError("no workloads, so no configuration")
    for field in dataclasses.fields(Configuration):
        if len(values := list(dict.fromkeys(getattr(c, field.name) for c in configurations))) > 1:
            raise MixedError(f"one fit can't mix configurations: {field.name} is {' and '.join(map(str, values))}")
    return configurations[0]


def same_environment(environments: Sequence[Environment]) -> Environment:
    """The one environment of several files; :class:`MixedError` names the fields in which they differ."""
    if not environments:
        raise MixedError("no environments")
    first, *others = environments
    if differing := list(dict.fromkeys(name for other in others for name in first.differences(other))):
        raise MixedError(f"one fit can't mix environments: they differ in {', '.join(differing)}")
    return first


def workspace_bytes(measured: Measured) -> int:
    """Bytes at the baseline that are neither weights nor buffers, such as a BLAS workspace."""
    return measured.baseline_bytes - measured.weights_bytes - measured.buffers_bytes


def unattributed_bytes(measured: Measured) -> int:
    """Bytes held after the phase that are neither the baseline's nor any term's; 0 in a closed ledger."""
    return measured.held_bytes - measured.baseline_bytes - measured.held.total_bytes


def cache_and_state_bytes(measured: Measured) -> int:
    """Bytes held after the phase beside the baseline, the inputs, media and logits as they were seen."""
    held = measured.held
    return measured.held_bytes - measured.baseline_bytes - held.inputs_bytes - held.media_bytes - held.logits_bytes


def fitted_terms(ran: dict[Workload, Measured]) -> tuple[FittedTerm, ...]:
    """All fits of one configuration's points: exact terms, ledger, held bytes a phase, transients a regime.

    :class:`MixedError` if the points are of several configurations.
    """
    configuration = same_configuration(ran)
    return (
        *(
            _proportional(configuration, ran, term.name, term.count, term.observed)
            for term in exact_terms(configuration)
        ),
        _proportional(configuration, ran, "buffers", lambda _: 1, lambda m: m.buffers_bytes),
        _proportional(configuration, ran, "workspace", lambda _: 1, workspace_bytes),
        *(_held(configuration, ran, phase) for phase in _phases(ran)),
        *_vision(configuration, ran),
        *_transients(configuration, ran),
    )


def _phases(ran: dict[Workload, Measured]) -> list[Phase]:
    return list(dict.fromkeys(workload.phase for workload in ran))


def _proportional(
    configuration: Configuration,
    ran: dict[Workload, Measured],
    term: str,
    count: Callable[[Workload], int],
    observed: Callable[[Measured], int],
) -> FittedTerm:
    samples = tuple(Sample(workload=w, observed_bytes=observed(m)) for w, m in ran.items())
    columns = plain_columns({term: [count(s.workload) for s in samples]})
    phases = _phases(ran)
    return FittedTerm(
        configuration=configuration,
        term=term,
        regime=phase_regime(phases[0] if len(phases) == 1 else None),
        samples=samples,
        fit=least_squares(columns, [s.observed_bytes for s in samples]),
    )


def _held(configuration: Configuration, ran: dict[Workload, Measured], phase: Phase) -> FittedTerm:
    samples = tuple(
        Sample(workload=w, observed_bytes=cache_and_state_bytes(m)) for w, m in ran.items() if w.phase == phase
    )
    counts = held_counts([(s.workload.batch, s.workload.cached_tokens) for s in samples])
    return FittedTerm(
        configuration=configuration,
        term="held",
        regime=phase_regime(phase),
        samples=samples,
        fit=least_squares(plain_columns(counts), [s.observed_bytes for s in samples]),
    )


def _vision(configuration: Configuration, ran: dict[Workload, Measured]) -> list[FittedTerm]:
    """What the vision tower takes while it runs. It does not see the context, only how many images there are."""
    samples = tuple(
        Sample(workload=w, observed_bytes=m.vision.peak_bytes) for w, m in ran.items() if m.vision is not None
    )
    if not samples:
        return []
    shapes = [(s.workload.batch, s.workload.context_tokens) for s in samples]
    names = ("constant", "per_sequence")
    columns, absent = merged_columns({name: [COLUMNS[name](*shape) for shape in shapes] for name in names})
    fit = least_squares(columns, [s.observed_bytes for s in samples], absent)
    regime = phase_regime("prefill")
    return [FittedTerm(configuration=configuration, term="vision", regime=regime, samples=samples, fit=fit)]


def _transients(configuration: Configuration, ran: dict[Workload, Measured]) -> list[FittedTerm]:
    by_regime: dict[Regime, list[Sample]] = {}
    for workload, outcome in ran.items():
        sample = Sample(workload=workload, observed_bytes=transient_bytes(workload, outcome))
        by_regime.setdefault(regime_of(workload, outcome), []).append(sample)
    ordered = sorted(by_regime, key=lambda r: (r.phase != "prefill", r.batches, r.stage, r.op, r.source))
    return [_transient(configuration, regime, by_regime[regime]) for regime in ordered]


def _transient(configuration: Configuration, regime: Regime, samples: list[Sample]) -> FittedTerm:
    shapes = [(s.workload.batch, s.workload.context_tokens) for s in samples]
    names = transient_columns(configuration, regime)
    columns, absent = merged_columns({name: [COLUMNS[name](*shape) for shape in shapes] for name in names})
    return FittedTerm(
        configuration=configuration,
        term="transient",
        regime=regime,
        samples=tuple(samples),
        fit=least_squares(columns, [s.observed_bytes for s in samples], absent),
    )
