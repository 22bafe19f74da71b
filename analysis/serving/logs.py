"""What published logs say of a server (``results/public/*.toml``): how many hold a formula, and what has none.

Activations, what is outside torch and CUDA graphs depend on the model, on how many tokens are batched and on the
version, so they are an interval and no figure: the least and the most that logs print.
"""

import functools

from vram_ledger.analysis.ground.figures import Figure, FromRuntime, read_published
from vram_ledger.analysis.serving.plan import Span

NO_FORMULA = ("activation peak", "outside torch", "CUDA graphs")  # quantities of figures that have no answer


@functools.cache
def published() -> tuple[Figure, ...]:
    """The published figures, read once."""
    return tuple(read_published()[0])


def logs_of(runtime: str, term: str) -> int:
    """How many logs a term is held against and agrees with, each counted once; all that is printed of a pool tells its
    blocks."""
    return len(
        {
            figure.address or figure.found
            for figure in published()
            if isinstance(own := figure.answer, FromRuntime)
            and (own.runtime, figure.apart) == (runtime, None)
            and (own.term == term or (term == "blocks" and own.pool and not own.pool.endswith("tokens")))
        }
    )


def seen(quantity: str) -> tuple[Span, int]:
    """The least and the most that logs of vLLM printed of one of :data:`NO_FORMULA`, in bytes, and how many did."""
    found = [int(figure.printed.value) for figure in published() if figure.quantity == quantity and not figure.answer]
    return Span(least=min(found), most=max(found)), len(found)
