"""Trains a little, fills the card, and dumps what the allocator recorded: of all, from mid-run on, or the last events.

Prints torch's own counters: peaks since the recording began, and what is held at its end.
"""

import json
import sys

import torch


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, rows: int) -> None:
    """One training step of so many rows."""
    rows_in = torch.randn(rows, 1024, device="cuda")
    model(rows_in).float().pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def fill_the_card() -> None:
    """Makes the allocator give its cache back for a request, and then fail in one."""
    free, _ = torch.cuda.mem_get_info()
    kept = torch.empty(free // 2, dtype=torch.uint8, device="cuda")
    cached = torch.empty(free // 3, dtype=torch.uint8, device="cuda")
    del cached
    fitted = torch.empty(free // 5 * 2, dtype=torch.uint8, device="cuda")
    try:
        torch.empty(free, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        del kept, fitted
    else:
        raise SystemExit("the card was larger than it said")


def main() -> None:
    """argv: the file to dump to; "whole", "late", "last", or "plain", which is whole and does not fill the card."""
    out, how = sys.argv[1:]
    record = torch.cuda.memory._record_memory_history
    if how != "late":
        record(stacks="python", max_entries=300 if how == "last" else 100_000)
    model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(8))).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for rows in (700, 3000):
        step(model, optimizer, rows)
    if how == "late":
        torch.cuda.reset_peak_memory_stats()
        record(stacks="python")
    for rows in (1400, 90, 5000):
        step(model, optimizer, rows)
    if how != "plain":
        torch.cuda.empty_cache()
        fill_the_card()
    step(model, optimizer, 2100)
    torch.cuda.memory._dump_snapshot(out)
    counters = ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved")
    print(json.dumps({name: getattr(torch.cuda, name)() for name in counters}))


if __name__ == "__main__":
    main()
