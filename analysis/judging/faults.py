"""Verdicts that need no formula: what ran was not what was asked, did not finish, or was not the same twice."""

from collections.abc import Sequence

from vram_ledger.analysis.evidence.lines import invented, measured
from vram_ledger.analysis.evidence.verdict import Decision, Verdict, point, size
from vram_ledger.analysis.formula.terms import phase_regime
from vram_ledger.harness.records import Configuration, Failure, Measured, Measurement, OutOfMemory, Standard, Workload

TORCH_REFERENCE = "torch reference"  # how harness.records.Kernels marks transformers' own slow path
MESSAGE_LENGTH = 120


def judge_faults(configuration: Configuration, lines: Sequence[Measurement]) -> list[Verdict]:
    """Verdicts on the kernels, the failures and the repeats of one configuration's counting lines."""
    guessing = invented(lines)
    ran = measured(lines) | guessing
    verdicts = [*_kernels(configuration, ran), *_failures(configuration, lines), *_repeats(configuration, lines)]
    verdicts += [*_neighbours(configuration, ran), *_invented(configuration, guessing, len(ran))]
    if not ran:
        verdicts += _refused(configuration, lines)
    if not verdicts and not ran:
        verdicts.append(_verdict(configuration, "measurement", "INCONCLUSIVE", 0, cause="no workload ran to its end"))
    return verdicts


def judge_standards(configuration: Configuration, standards: Sequence[Standard]) -> list[Verdict]:
    """The check standard over the campaign; nothing if it was not run at least twice.

    ``context_bytes`` has the card's neighbours in it and no tolerance, so it is not judged.
    """
    if len(standards) < 2:
        return []
    readings = list(dict.fromkeys((s.probes, s.workspace_bytes) for s in standards))
    moved = len(readings) > 1
    return [
        _verdict(
            configuration,
            "check standard",
            "DRIFT" if moved else "EQUIVALENT",
            len(standards),
            expected="one reading",
            expected_from="this file",
            fitted=f"{len(readings)} readings",
            cause="runtime drift: allocator, cuBLAS or driver moved during the campaign" if moved else "",
        )
    ]


def _verdict(
    configuration: Configuration,
    term: str,
    decision: Decision,
    n: int,
    *,
    expected: str | None = None,
    expected_from: str = "",
    fitted: str | None = None,
    reference: str = "",
    difference_bytes: float | None = None,
    cause: str = "",
) -> Verdict:
    return Verdict(
        configuration=configuration,
        term=term,
        regime=phase_regime(None),
        unit="",
        decision=decision,
        n=n,
        expected=expected,
        expected_from=expected_from,
        fitted=fitted,
        reference=reference,
        difference_bytes=difference_bytes,
        cause=cause,
    )


def _kernels(configuration: Configuration, ran: dict[Workload, Measured]) -> list[Verdict]:
    """Whether the delta rule that was asked for is the one that was seen to run."""
    rules = list(dict.fromkeys(m.kernels.delta_rule for m in ran.values() if m.kernels.delta_rule is not None))
    if not rules:
        return []
    wanted_reference = configuration.kernels == "torch"
    strays = [rule for rule in rules if rule.startswith(TORCH_REFERENCE) != wanted_reference]
    if strays and wanted_reference:
        cause = f"the torch reference was asked for but {', '.join(strays)} ran"
    else:
        cause = "fla was asked for but the torch reference ran" if strays else ""
    return [
        _verdict(
            configuration,
            "kernels",
            "DRIFT" if strays else "EQUIVALENT",
            len(ran),
            expected=TORCH_REFERENCE if wanted_reference else "fla",
            expected_from="grid",
            fitted="; ".join(strays or rules),
            cause=cause,
        )
    ]


def _neighbours(configuration: Configuration, ran: dict[Workload, Measured]) -> list[Verdict]:
    """Whether another process used the card: then reserved and device peaks, and what ran out, are not ours alone."""
    told = {w: m.neighbour_bytes for w, m in ran.items() if m.neighbour_bytes is not None}
    if not told:
        return []
    workload, most = max(told.items(), key=lambda item: item[1])
    return [
        _verdict(
            configuration,
            "neighbours",
            "INCONCLUSIVE" if most else "EQUIVALENT",
            len(told),
            expected="0 B",
            expected_from="an idle card",
            fitted=f"{most:,} B",
            reference=f"{workload.phase} {point(workload)}",
            difference_bytes=most,
            cause="another process used the card; measure again on an idle one" if most else "",
        )
    ]


def _invented(configuration: Configuration, guessing: dict[Workload, Measured], ran: int) -> list[Verdict]:
    """How many points read what an emulated card had to invent; where it is all of them nothing can be judged."""
    if not guessing:
        return []
    largest = max(guessing, key=size)
    sources = dict.fromkeys(read.source for m in guessing.values() for read in m.guessed)
    return [
        _verdict(
            configuration,
            "invented reads",
            "INCONCLUSIVE" if len(guessing) == ran else "NO_REFERENCE",
            ran,
            expected="none",
            expected_from="a card",
            fitted=f"{len(guessing)} of {ran} points",
            reference=f"{largest.phase} {point(largest)}",
            cause=f"values were read that no copy had written: {', '.join(sources)}",
        )
    ]


def _refused(configuration: Configuration, lines: Sequence[Measurement]) -> list[Verdict]:
    """Where nothing ran since nothing fitted: a result, not a doubt. ``during`` of the smallest says what did not."""
    lost = {line.workload: line.outcome for line in lines if isinstance(line.outcome, OutOfMemory)}
    if not lost:
        return []
    smallest = min(lost, key=size)
    return [
        _verdict(
            configuration,
            "measurement",
            "DOES_NOT_FIT",
            len(lost),
            fitted=f"does not fit: {lost[smallest].during}",
            reference=f"{smallest.phase} {point(smallest)}",
        )
    ]


def _failures(configuration: Configuration, lines: Sequence[Measurement]) -> list[Verdict]:
    return [
        _verdict(
            configuration,
            "measurement",
            "INCONCLUSIVE",
            1,
            reference=f"{line.workload.phase} {point(line.workload)}",
            cause=_failure_cause(line, line.outcome),
        )
        for line in lines
        if isinstance(line.outcome, Failure)
    ]


def _failure_cause(line: Measurement, failure: Failure) -> str:
    first_line = failure.message.strip().partition("\n")[0][:MESSAGE_LENGTH]
    return f"{failure.reason} at {line.workload.phase} {point(line.workload)}: {first_line}"


def _repeats(configuration: Configuration, lines: Sequence[Measurement]) -> list[Verdict]:
    """Whether a fresh process asked for the same bytes. An out-of-memory in only one of the two proves nothing."""
    first = {line.workload: line for line in lines if line.repeat == 0}
    again = [line for line in lines if line.repeat == 1 and line.workload in first]
    pairs = [
        (line.workload, first[line.workload].outcome, line.outcome)
        for line in again
        if not isinstance(line.outcome, Failure) and not isinstance(first[line.workload].outcome, Failure)
    ]
    faults = [
        _repeat_fault(configuration, workload, a, b)
        for workload, a, b in pairs
        if isinstance(a, Measured) and isinstance(b, Measured) and _requested(a, b) != _requested(b, a)
    ]
    unlike = [
        _verdict(
            configuration,
            "repeatability",
            "INCONCLUSIVE",
            1,
            reference=f"{workload.phase} {point(workload)}",
            cause="out of memory in one process, not in the other",
        )
        for workload, a, b in pairs
        if isinstance(a, Measured) != isinstance(b, Measured)
    ]
    if faults or unlike or not pairs:
        return [*faults, *unlike]
    same = _verdict(
        configuration, "repeatability", "EQUIVALENT", len(pairs), expected="same bytes", fitted="same bytes",
        expected_from="this file",
    )  # fmt: skip
    return [same]


def _requested(measured: Measured, other: Measured) -> tuple[int, ...]:
    """The requested bytes that must repeat; the cold peak where both have one and both tuned their kernels or neither.

    Tuning takes a buffer of its own, and what was tuned once is kept on disk: a later process has no such buffer.
    """
    alike = measured.cold is not None and other.cold is not None and measured.tuned == other.tuned
    cold = (measured.cold.requested_bytes,) if alike and measured.cold is not None else ()
    return measured.warm.requested_bytes, measured.held_bytes, *cold


def _repeat_fault(configuration: Configuration, workload: Workload, first: Measured, again: Measured) -> Verdict:
    differences = [b - a for a, b in zip(_requested(first, again), _requested(again, first), strict=True)]
    worst = max(differences, key=abs)
    return _verdict(
        configuration,
        "repeatability",
        "DRIFT",
        1,
        expected="same bytes",
        expected_from="this file",
        fitted="other bytes",
        reference=f"{workload.phase} {point(workload)}",
        difference_bytes=worst,
        cause=f"repeatability fault: {worst:+,} B in a fresh process at {workload.phase} {point(workload)}",
    )
