"""A Triton kernel with two configurations to choose from. Prints the peak of its first call and of its second."""

import json

import torch
import triton
import triton.language as tl


@triton.autotune(configs=[triton.Config({"BLOCK": size}) for size in (128, 256)], key=["count"])  # type: ignore[untyped-decorator]
@triton.jit  # type: ignore[untyped-decorator]
def double(source, target, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    """Twice the source."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, 2 * tl.load(source + at, mask=at < count), mask=at < count)


def peak() -> int:
    """Of one call."""
    torch.cuda.reset_peak_memory_stats()
    source = torch.ones(2**20, device="cuda")
    double[(4096,)](source, torch.empty_like(source), source.numel())
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    print(json.dumps([peak(), peak()]))
