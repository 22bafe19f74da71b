"""What published logs say of a server (``results/public/*.toml``): how many hold a formula, and what has none.

Activations, what is outside torch, and CUDA graphs depend on the model, on how many tokens are batched and on the
version. So of real logs it is an interval and no figure: the least and the most that they print. The activations of a
model that the stock server was started with on an emulated card (``results/oracle/``) are its own figure.
"""

import functools

from vram_ledger.analysis.ground.figures import Figure, FromRuntime, read_published
from vram_ledger.analysis.serving.oracle import Planned, read_records
from vram_ledger.analysis.serving.plan import Span
from vram_ledger.home import RESULTS

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


@functools.cache
def planned() -> list[Planned]:
    """What stock servers planned, as it is stored, read once."""
    return read_records(RESULTS)


def activation(found: list[Planned], runtime: str, model: str, text: bool, card: str) -> tuple[Span, str] | None:
    """The activation peak of a model and class: on this card, else on any; ``None`` where nobody asked.

    It goes with the tokens that the server batches, which it chooses by the card.
    """
    variant = "text" if text else "default"
    same = [one for one in found if (one.runtime, one.model, one.variant) == (runtime, model, variant)]
    here = [one for one in same if one.card == card] or same
    if not here:
        return None
    sizes = [one.activation_bytes for one in here]
    cards = ", ".join(sorted({one.card for one in here}))
    versions = ", ".join(sorted({one.version for one in here}))
    batched = " or ".join(f"{n:,}" for n in sorted({one.most_batched_tokens for one in here}))
    return Span(least=min(sizes), most=max(sizes)), f"emulated: vLLM {versions} on {cards}, {batched} tokens batched"
