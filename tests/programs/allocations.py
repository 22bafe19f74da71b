"""Random tensors on a card that gets full: each step, what the allocator says after it, and the errors. Prints JSON.

Arguments: a seed, how many steps, the bytes of the card that are to be left after the first request, and the most bytes
of the others.
"""

import json
import random
import sys

import torch


def counters() -> list[int]:
    """The three counters, their peaks, and how often the driver was asked again."""
    told = torch.cuda.memory_stats()
    names = ("requested_bytes", "allocated_bytes", "reserved_bytes")
    values = [told.get(f"{name}.all.{kind}", 0) for kind in ("current", "peak") for name in names]
    return [*values, told.get("num_alloc_retries", 0)]


def steps_of(choose: random.Random, count: int, first: int, most: int) -> "list[tuple[str, int]]":
    """What to do: ("alloc", bytes), ("free", number of the request), ("empty_cache", 0), ("reset", 0)."""
    steps, requests = [("alloc", first)], 1
    live: list[int] = []
    for number in range(count):
        draw = choose.random()
        if draw < 0.03:
            steps.append((choose.choice(["empty_cache", "empty_cache", "reset"]), 0))
        elif live and draw < (0.40 if number // 60 % 2 else 0.62):
            steps.append(("free", live.pop(choose.randrange(len(live)))))
        else:
            size = 0 if draw > 0.99 else int(most ** choose.random())
            steps.append(("alloc", size))
            live.append(requests)
            requests += 1
    return steps


def main() -> None:
    """Every step, in order; a request that fails holds nothing afterwards."""
    seed, count, left, most = map(int, sys.argv[1:])
    capacity, total = torch.cuda.mem_get_info()
    tensors: list[torch.Tensor | None] = []
    seen = []
    for kind, value in steps_of(random.Random(seed), count, max(0, capacity - left), most):
        said = None
        if kind == "alloc":
            try:
                tensors.append(torch.empty(value, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError as error:
                tensors.append(None)
                said = str(error)
        elif kind == "free":
            tensors[value] = None
        elif kind == "empty_cache":
            torch.cuda.empty_cache()
        else:
            torch.cuda.reset_peak_memory_stats()
        seen.append([kind, value, counters(), said])
    print(json.dumps({"capacity_bytes": capacity, "total_bytes": total, "seen": seen}))


if __name__ == "__main__":
    main()
