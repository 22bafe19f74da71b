"""Whether a prefill in chunks gives the logits of a single shot: by values, on the CPU, with a small model.

``python -m vram_ledger.harness.runtimes.chunked`` prints a line of JSON: the release of transformers that it imported,
and of each case the logits' largest size, their largest difference from a single shot, and of how many tokens the
likeliest next one is another. Weights are random by a seed, in float32; kernels are transformers' own, to which the
model's code hands the same state from call to call as to the faster ones.
"""

import dataclasses
import importlib.metadata
import inspect
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch

SEED, VOCABULARY, TOKENS = 20_260, 509, 200
CASES = ((1, 64), (1, 50), (2, 128), (1, 7))  # batch, tokens of a chunk
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "tie_word_embeddings": False,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000_000,
        "partial_rotary_factor": 0.25,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A prefill in chunks beside a single shot. failed: why there is no answer; "" if there is one.

    largest, difference: of the logits, and of theirs from the single shot's. other_tokens: of so many tokens the
    likeliest next one is another. decode_difference: of the logits of one more token afterwards.
    """

    batch: int
    chunk_tokens: int
    tokens: int
    failed: str = ""
    largest: float = 0.0
    difference: float = 0.0
    other_tokens: int = 0
    decode_difference: float = 0.0


def compared(model: Any, batch: int, chunk: int) -> Compared:
    """One case."""
    ids = torch.randint(0, VOCABULARY, (batch, TOKENS + 1), generator=torch.Generator().manual_seed(SEED + batch))
    case = Compared(batch=batch, chunk_tokens=chunk, tokens=batch * TOKENS)
    try:
        whole, whole_next = logits_of(model, ids, TOKENS)
        pieces, pieces_next = logits_of(model, ids, chunk)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        return dataclasses.replace(case, failed=f"{type(error).__name__}: {error}"[:200])
    return dataclasses.replace(
        case,
        largest=round(float(whole.abs().max()), 6),
        difference=float((whole - pieces).abs().max()),
        other_tokens=int((whole.argmax(-1) != pieces.argmax(-1)).sum()),
        decode_difference=float((whole_next - pieces_next).abs().max()),
    )


def logits_of(model: Any, ids: torch.Tensor, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of all tokens but the last, in calls of ``chunk`` tokens; then the last token's."""
    found, cache = [], None
    kept = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    with torch.no_grad():
        for piece in (*ids[:, :-1].split(chunk, dim=1), ids[:, -1:]):
            given: dict[str, Any] = {} if cache is None else {kept: cache}
            out = model(input_ids=piece, use_cache=True, **given)
            cache = getattr(out, kept)
            found.append(out.logits)
    return torch.cat(found[:-1], dim=1), found[-1]


def small_model() -> Any:
    """A model of the family that runs on a CPU in a moment, with weights by a seed."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    torch.manual_seed(SEED)
    config = Qwen3_5TextConfig(**TEXT)
    config._attn_implementation = "sdpa"
    model = Qwen3_5ForCausalLM(config).float().eval()
    for parameter in model.parameters():  # far from each other, so that a wrong state is seen
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def main() -> None:
    """Compares, and prints."""
    sys.modules["fla"] = sys.modules["causal_conv1d"] = None  # type: ignore[assignment]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    torch.set_num_threads(1)
    told: dict[str, Any] = {"transformers": importlib.metadata.version("transformers"), "torch": torch.__version__}
    try:
        model = small_model()
    except (ImportError, TypeError, ValueError, AttributeError) as error:
        told |= {"failed": f"{type(error).__name__}: {error}"[:200], "cases": []}
    else:
        told |= {"failed": "", "cases": [dataclasses.asdict(compared(model, *case)) for case in CASES]}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
