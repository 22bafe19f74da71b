"""Qwen3.5 as a public benchmark ran it, in plain transformers: prefills without a cache, then generation with one.

Protocol and figures: IshaanGubbala/HatchlingZero, scripts/hz0h_qwen35_decode_benchmark.py and
results/local/hz0h_qwen35_decode_benchmark.json. Text class in bfloat16, built on the CPU and moved, all logits; after
each part ``max_memory_allocated``. Prints one JSON object: for each context the two peaks, or PyTorch's words if it ran
out. The second argument is the kernels: "fla", or "torch" for transformers' own.

    vram-ledger emulate --card rtx-4090 -- python examples/protocols/prefill_then_generate.py config.json fla 128 2048
"""

import json
import sys
from typing import Any

CONFIG_FILE, KERNELS, *CONTEXTS = sys.argv[1:]
if KERNELS == "torch":
    sys.modules["fla"] = None  # type: ignore[assignment]

import torch  # noqa: E402
from transformers import Qwen3_5Config, Qwen3_5ForCausalLM, masking_utils  # noqa: E402

GENERATED = 64


def model_on_card() -> Any:
    """The model with random weights, as ``from_pretrained(…).to("cuda")`` leaves it."""
    config = Qwen3_5Config.from_json_file(CONFIG_FILE).text_config
    torch.set_default_dtype(torch.bfloat16)
    config.dtype = torch.bfloat16
    model = Qwen3_5ForCausalLM._from_config(config)
    torch.set_default_dtype(torch.float32)
    return model.to("cuda").eval()


def never_packed(look: Any) -> Any:
    """The question whether prompts are packed, asked as ever, answered as a card does: an emulated one can't."""

    def answer(position_ids: torch.Tensor) -> None:
        look(position_ids)

    return answer


def peak() -> int:
    """The highest of what was allocated since the last call."""
    torch.cuda.synchronize()
    bytes_ = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return bytes_


def prefill(model: Any, prompt: torch.Tensor) -> None:
    """A warm-up and five more, without a cache."""
    for _ in range(6):
        model(input_ids=prompt, use_cache=False)


def start(model: Any, prompt: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """A prefill that leaves its cache and the next token."""
    out = model(input_ids=prompt, use_cache=True)
    return (out.cache if hasattr(out, "cache") else out.past_key_values), next_token(out)


def next_token(out: Any) -> torch.Tensor:
    """The likeliest one."""
    return torch.argmax(out.logits[:, -1, :], dim=-1, keepdim=True)


def go_on(model: Any, cache: Any, token: torch.Tensor, count: int) -> None:
    """So many tokens more; what a call returns is alive during the next, as there."""
    for _ in range(count):
        out = model(input_ids=token, past_key_values=cache, use_cache=True)
        token = next_token(out)


def generate(model: Any, prompt: torch.Tensor) -> None:
    """Twice: a prefill and tokens after it; the first cache is still alive when the second prefill runs."""
    cache, token = start(model, prompt)
    go_on(model, cache, token, 4)
    cache, token = start(model, prompt)
    go_on(model, cache, token, GENERATED)


def main() -> None:
    """All contexts in turn, in one process."""
    masking_utils.find_packed_sequence_indices = never_packed(masking_utils.find_packed_sequence_indices)
    model = model_on_card()
    told: dict[str, int | str] = {}
    for context in map(int, CONTEXTS):
        prompt = torch.randint(0, model.config.vocab_size, (1, context), device="cuda")
        try:
            peak()
            prefill(model, prompt)
            told[f"prefill {context}"] = peak()
            generate(model, prompt)
            told[f"generate {context}"] = peak()
        except torch.cuda.OutOfMemoryError as error:
            told[f"out of memory {context}"] = str(error)
            torch.cuda.empty_cache()
    print(json.dumps(told))


with torch.no_grad():
    main()
