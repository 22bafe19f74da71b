"""Releases as people read them: a table of what each costs, and what moved from one to the next."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.ground.markdown import gb, table
from vram_ledger.analysis.versions.records import PACKAGES, Observed, Run, Tensor, Versions
from vram_ledger.analysis.versions.shapes import slope_of
from vram_ledger.analysis.versions.steps import Step, Stretch, step_between, stretches
from vram_ledger.harness.events import STANDING
from vram_ledger.harness.records import PHASES, Kernels

LIBRARIES = {"transformers": "transformers", "fla": "fla", "torch": "torch"}
REFERENCE = "torch reference: "
STAGES = {"delta_rule": "delta rule", "convolution": "convolution", "attention": "attention", "norm": "gated norm"}


def answer_text(versions: Versions, runs: Sequence[Run], package: str) -> Iterator[str]:
    """All that there is to say of releases of one library."""
    found = stretches(runs, package)
    yield ""
    yield heading(versions, runs, package)
    yield shapes_text(runs)
    yield ""
    yield from versions_table(found, package)
    yield ""
    for before, after in pairwise(found):
        for phase in PHASES:
            step = step_between(before.last, after.first, phase)
            if step is not None and step.moved:
                yield from step_text(step, package)
        yield from allocator_text(before, after)
    yield from kernels_text(found)
    yield from failures_text(found)
    yield ""


def versions_table(found: Sequence[Stretch], package: str) -> list[str]:
    """A row a stretch; GB, but for the bytes a token."""
    header = [LIBRARIES[package]]
    for phase in PHASES:
        header += [f"{phase}: B a token", "requested", "reserved"]
    return table(header, [_row(stretch) for stretch in found])


def _row(stretch: Stretch) -> list[str]:
    cells = [stretch.text]
    for phase in PHASES:
        observed = stretch.first.observed(phase)
        slope = slope_of(observed)
        longest = observed.points[-1] if observed.points and not observed.failed else None
        cells.append("-" if slope is None else f"{slope:,}")
        cells += (
            ["fails", "-"]
            if longest is None
            else [gb(longest.requested_bytes, signed=False), gb(longest.reserved_bytes, signed=False)]
        )
    return cells


def heading(versions: Versions, runs: Sequence[Run], package: str) -> str:
    """What the table is of."""
    c, software = versions.configuration, runs[-1].software
    others = ", ".join(f"{LIBRARIES[p]} {software.of(p)}" for p in PACKAGES if p != package)
    return f"{c.model}, {variant_of(c)}, {versions.gpu_label}; {others}"


def shapes_text(runs: Sequence[Run]) -> str:
    """Which shapes the table's columns are of."""
    longest = {phase: _longest(runs, phase) for phase in PHASES}
    shapes = " and ".join(f"a {phase} of {longest[phase]:,} tokens" for phase in PHASES)
    return f"GB of {shapes}, one sequence; bytes a token between the two longest contexts, confirmed by a third"


def _longest(runs: Sequence[Run], phase: str) -> int:
    return max((p.context_tokens for run in runs for o in run.phases if o.phase == phase for p in o.points), default=0)


def kernels_text(found: Sequence[Stretch]) -> Iterator[str]:
    """Which kernels ran, from which release on; a line a phase and change."""
    for phase in PHASES:
        before: Kernels | None = None
        for stretch in found:
            kernels = stretch.first.observed(phase).kernels
            if kernels is None or kernels == before:
                continue
            changed = {n for n in STAGES if before is None or getattr(before, n) != getattr(kernels, n)}
            seen = "; ".join(f"{STAGES[n]}: {_kernel(getattr(kernels, n))}" for n in STAGES if n in changed)
            yield f"{phase}, from {stretch.first.software.of(stretch.package)} on: {seen}"
            before = kernels


def _kernel(name: str | None) -> str:
    """The kernel's short name; what is not seen is the model's own code."""
    if name is None:
        return "in the model's own code"
    short = name.removeprefix(REFERENCE)
    parts = short.split(".")
    text = ".".join((parts[0], *parts[-2:])) if len(parts) > 3 else short
    return f"torch reference ({parts[-1]})" if name.startswith(REFERENCE) else text


def failures_text(found: Sequence[Stretch]) -> Iterator[str]:
    """What could not be done, a line a stretch and reason; and what was read from a card that has no values."""
    for stretch in found:
        failed = {o.failed for o in stretch.first.phases if o.failed}
        for reason in sorted(failed):
            yield f"{stretch.text} fails: {reason}"
        guessed = sorted({line for o in stretch.first.phases for line in o.guessed})
        if guessed:
            yield f"{stretch.text} reads values that an emulated card lacks: {', '.join(guessed)}"


def step_text(step: Step, package: str) -> Iterator[str]:
    """A step: how far the peak moved, and every tensor that came or went, with the line of its release."""
    ends = " to ".join(run.software.of(package) for run in (step.before, step.after))
    old, new = step.before.observed(step.phase), step.after.observed(step.phase)
    length = new.points[-1].context_tokens
    yield f"{step.phase}, {ends}: {step.moved_bytes:+,} B at {length:,} tokens{slope_text(step)}"
    if _place(old.running) != _place(new.running):
        yield f"  the peak is no longer in {old.running}"
        yield f"  but in {new.running}"
    for sign, tensors in (("went", step.went), ("came", step.came)):
        for tensor in tensors:
            yield f"  {sign}: {tensor_text(tensor, length)}"


def slope_text(step: Step) -> str:
    """How the bytes a token moved."""
    before, after = step.slopes
    if before is None or after is None:
        return ""
    return f", {after - before:+,} B a token ({before:,} to {after:,})"


def tensor_text(tensor: Tensor, length: int) -> str:
    """A kind of tensors: "2 × clone (1, L, 16, 128) bfloat16, 8,192 B a token, file.py:12"."""
    if tensor.op in STANDING:
        return f"{tensor.op}, {tensor.bytes:,} B in {tensor.count} tensors"
    shape = ", ".join({length: "L", length + 1: "L + 1"}.get(size, _times(size, length)) for size in tensor.shape)
    size = f"{tensor.bytes // length:,} B a token" if tensor.bytes % length == 0 else f"{tensor.bytes:,} B"
    return f"{tensor.count} × {tensor.op} ({shape}) {tensor.dtype}, {size}, {tensor.source}"


def _times(size: int, length: int) -> str:
    return f"{size // length}·L" if size >= length and size % length == 0 else f"{size:,}"


def _place(running: str) -> str:
    """Without the number of the line."""
    return running.rpartition(":")[0]


def allocator_text(before: Stretch, after: Stretch) -> Iterator[str]:
    """Where the requested peak stayed and what the allocator makes of it did not."""
    for phase in PHASES:
        old, new = before.last.observed(phase), after.first.observed(phase)
        if _longest_point_moved(old, new):
            a, b = old.points[-1], new.points[-1]
            moved = (b.allocated_bytes - a.allocated_bytes, b.reserved_bytes - a.reserved_bytes)
            ends = f"{before.last.software.of(before.package)} to {after.first.software.of(after.package)}"
            yield (
                f"{phase}, {ends}: the same requested, at {b.context_tokens:,} tokens "
                f"{moved[0]:+,} B allocated, {moved[1]:+,} B reserved"
            )


def _longest_point_moved(old: Observed, new: Observed) -> bool:
    if not old.points or not new.points or old.failed or new.failed:
        return False
    a, b = old.points[-1], new.points[-1]
    return a.requested_bytes == b.requested_bytes and a != b
