"""What a campaign found, in sentences; every number in them is read off its points, its formulas and its scoreboard."""

from collections.abc import Iterator, Sequence

from vram_ledger.analysis.estimating.ours import cache_at_peak
from vram_ledger.analysis.estimators.catalogue import ESTIMATORS
from vram_ledger.analysis.formula.terms import transient_bytes
from vram_ledger.analysis.refereeing.score import score
from vram_ledger.analysis.refereeing.scoreboard import Board
from vram_ledger.analysis.reporting.axes import GB
from vram_ledger.analysis.reporting.part import Part
from vram_ledger.analysis.reporting.peaks import counted


def findings(parts: Sequence[Part], board: Board | None) -> list[str]:
    """Sentences on the first configuration, and on the estimators."""
    found = list(_of_part(parts[0])) if parts else []
    return found + (list(_of_estimators(board)) if board else [])


def _of_part(part: Part) -> Iterator[str]:
    largest = max(part.ran, key=lambda w: w.batch * w.cached_tokens)
    held = part.ran[largest].held
    state = (held.recurrent_state_bytes + held.conv_state_bytes) // largest.batch
    token = held.kv_cache_bytes // (largest.batch * largest.cached_tokens)
    cache = f"the cache of {state / token:,.0f} tokens" if token else "no cache at all"
    yield f"The KV cache takes {token:,} bytes a token, the state of a sequence {state:,} bytes: as much as {cache}."
    if "prefill" in part.phases:
        yield from _of_prefill(part)


def _of_prefill(part: Part) -> Iterator[str]:
    points = part.points("prefill")
    context, batch = max(points, key=lambda shape: (shape[0], -shape[1]))
    workload, outcome = part.workload("prefill", context, batch), points[context, batch]
    cache = cache_at_peak(workload, outcome.held.kv_cache_bytes)
    transient = transient_bytes(workload, outcome)
    whole = outcome.warm.requested_bytes - outcome.baseline_bytes
    yield (
        f"A prefill of {counted(batch, 'sequence')} of {context:,} tokens needs {whole / GB:,.1f} GB on top of the "
        f"weights: {cache / GB:,.1f} GB of cache, and {transient / GB:,.1f} GB that are only there while it runs."
    )


def _of_estimators(board: Board) -> Iterator[str]:
    ranked = [(own.estimator, score(own.totals)) for own in board.ranked if own.estimator in ESTIMATORS]
    scored = [(name, total) for name, total in ranked if total]
    if len(scored) > 1:
        (best, near), (worst, far) = scored[0], scored[-1]
        yield (
            f"Of {len(scored)} public estimators {best} comes nearest: half of its totals are within "
            f"{near.median_bytes / GB:,.2f} GB, the worst is off by {abs(near.worst_bytes) / GB:,.1f} GB. {worst} is "
            f"farthest: {far.median_bytes / GB:,.2f} GB and {abs(far.worst_bytes) / GB:,.1f} GB."
        )
