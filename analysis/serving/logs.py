"""What logs, and stock servers on emulated cards, say of the memory that no formula here has.

Activations, what is outside torch, and CUDA graphs depend on the model, on how many tokens are batched and on the
version. So of real logs it is an interval and no figure: the least and the most that they printed. The activations of a
model that the stock server was started with on an emulated card (``results/oracle/``) are its own figure.
"""

from dataclasses import dataclass

from vram_ledger.analysis.serving.oracle import Planned, read_records
from vram_ledger.analysis.serving.plan import Span
from vram_ledger.home import RESULTS

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What a log of vLLM printed of one card, in GiB as printed, and where it is."""

    address: str
    what: str
    activation_gib: str | None = None
    non_torch_gib: str | None = None
    graphs_gib: str | None = None


OVERHEADS = (
    Overhead(
        address="vllm-project/vllm#50722",
        what="Qwen3.5-35B-A3B, four A100 80 GB, utilization 0.85",
        activation_gib="5.66",
        non_torch_gib="0.13",
        graphs_gib="1.34",
    ),
    Overhead(address="vllm-project/vllm#50722", what="the same, another start: estimated", graphs_gib="2.22"),
    Overhead(
        address="vllm-project/vllm#15815",
        what="Qwen2.5-32B, two L40S",
        activation_gib="1.26",
        non_torch_gib="0.30",
    ),
    Overhead(
        address="vllm-project/vllm#17327",
        what="Qwen3-30B-A3B in 4 bits, one 3090, 8 sequences",
        activation_gib="0.12",
        non_torch_gib="0.06",
    ),
    Overhead(
        address="vllm-project/vllm#13882",
        what="Qwen2.5-7B in 4 bits, one 4060",
        activation_gib="1.42",
        non_torch_gib="0.03",
    ),
    Overhead(
        address="at0rp1d0i-cell/peephole reports/p0-model/model-report.md",
        what="Qwen3.8-27B with its vision tower, RTX PRO 6000, 8,192 batched tokens, vLLM 0.29.0",
        activation_gib="2.58",
    ),
    Overhead(address="vllm-project/vllm#39559", what="Qwen3.5, GGUF, 51 + 35 graphs: estimated", graphs_gib="1.62"),
    Overhead(address="gpustack/runner#251", what="two cards, 16 graphs: estimated", graphs_gib="0.36"),
    Overhead(address="noonghunna/club-3090#434", what="Qwen3.6-27B, two 3090, 5 graphs: estimated", graphs_gib="0.09"),
)


def seen(field: str) -> tuple[Span, int]:
    """The least and the most that logs printed of a field of :class:`Overhead`, in bytes, and how many did."""
    found = [float(value) for one in OVERHEADS if (value := getattr(one, field)) is not None]
    return Span(least=int(min(found) * GIB), most=int(max(found) * GIB)), len(found)


def planned() -> list[Planned]:
    """What stock servers planned, as it is stored."""
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
