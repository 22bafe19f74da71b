"""Releases as people read them: a table of what each costs, and what moved from one to the next."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.ground.markdown import gb, table
from vram_ledger.analysis.versions.records import PACKAGES, Observed, Run, Tensor, Versions
from vram_ledger.analysis.versions.shapes import slope_of
from vram_ledger.analysis.versions.steps import Step, Stretch, step_between, stretches
from vram_ledger.harness.events import STANDING
from vram_ledger.harness.records import PHASES, Phase

REFERENCE = "torch reference: "
STAGES = {"delta_rule": "delta rule", "convolution": "convolution", "attention": "attention", "norm": "gated norm"}
MODELS = "transformers/models/qwen3_5/"
CHUNK = 64  # tokens of the delta rule's
MOST_AMBIGUOUS = 256  # a size up to here may be a head's as well as a number of chunks


def answer_text(versions: Versions, runs: Sequence[Run], package: str) -> Iterator[str]:
    """All that there is to say of the releases of one library: phase by phase a table, the steps and the kernels."""
    c, software = versions.configuration, runs[-1].software
    others = ", ".join(f"{p} {software.of(p)}" for p in PACKAGES if p != package)
    for phase in PHASES:
        found = stretches(runs, package, (phase,))
        yield ""
        yield f"{c.model} {variant_of(c)}, {phase} by {package}; {others}; {versions.gpu_label}"
        yield ""
        yield from versions_table(found, package, phase)
        yield ""
        for before, after in pairwise(found):
            step = step_between(before.last, after.first, phase)
            if step is not None and step.moved:
                yield from step_text(step, package)
            yield from allocator_text(before, after, phase)
        yield from kernels_text(found, phase)
        yield from failures_text(found, phase)


def versions_table(found: Sequence[Stretch], package: str, phase: Phase) -> list[str]:
    """A row a stretch: bytes a token, and the marks of the longest context of one sequence in GB."""
    longest = max((p.context_tokens for s in found for p in s.first.observed(phase).points), default=0)
    header = [package, "B a token", f"{longest:,}: requested", "allocated", "reserved, GB"]
    return table(header, [[stretch.text, *_cells(stretch.first.observed(phase))] for stretch in found])


def _cells(observed: Observed) -> list[str]:
    if observed.failed or not observed.points:
        return ["-", "fails", "-", "-"]
    slope, longest = slope_of(observed), observed.points[-1]
    marks = longest.requested_bytes, longest.allocated_bytes, longest.reserved_bytes
    return ["-" if slope is None else f"{slope:,}", *(gb(mark, signed=False) for mark in marks)]


def kernels_text(found: Sequence[Stretch], phase: Phase) -> Iterator[str]:
    """Which kernel ran in each stage, and from which release on."""
    for stage, name in STAGES.items():
        parts: list[str] = []
        before = ""
        for stretch in found:
            kernels = stretch.first.observed(phase).kernels
            kernel = before if kernels is None else _kernel(getattr(kernels, stage))
            if kernel != before:
                since = f", from {stretch.first.software.of(stretch.package)} on" if before else ""
                parts.append(f"{kernel}{since}")
            before = kernel
        yield f"{name}: {'; '.join(parts) or 'not seen'}"


def _kernel(name: str | None) -> str:
    """A kernel's short name; what is not seen is the model's own code."""
    if name is None:
        return "in the model's own code"
    package, _, rest = name.removeprefix(REFERENCE).partition(".")
    function = rest.removesuffix(".forward").rpartition(".")[2]
    short = f"{package}: {function}" if rest else name.removeprefix("aten::_scaled_dot_product_")
    return f"torch reference ({function})" if name.startswith(REFERENCE) else short


def failures_text(found: Sequence[Stretch], phase: Phase) -> Iterator[str]:
    """What could not be done, and what was read from a card that has no values; a line a stretch."""
    for stretch in found:
        observed = stretch.first.observed(phase)
        if observed.failed:
            yield f"{stretch.text} fails: {observed.failed}"
        if observed.guessed:
            yield f"{stretch.text} reads values that an emulated card lacks: {', '.join(observed.guessed)}"


def step_text(step: Step, package: str) -> Iterator[str]:
    """A step: how far the peak moved, and every tensor that came or went, with the line of its release."""
    ends = " to ".join(run.software.of(package) for run in (step.before, step.after))
    old, new = step.before.observed(step.phase), step.after.observed(step.phase)
    length = new.points[-1].context_tokens
    yield f"{ends}: {step.moved_bytes:+,} B at {length:,} tokens{slope_text(step)}"
    if old.running.rpartition(":")[0] != new.running.rpartition(":")[0]:
        yield f"  the peak is no longer in {_place(old.running)} but in {_place(new.running)}"
    for was, now in step.elsewhere:
        what = f"{was.count} × {_shape(now, length)} {now.dtype}"
        yield f"  elsewhere: {what}, {was.op} {_place(was.source)} → {now.op} {_place(now.source)}"
    for sign, tensors in (("went", step.went), ("came", step.came)):
        for tensor in tensors:
            yield f"  {sign}: {tensor_text(tensor, length)}"


def slope_text(step: Step) -> str:
    """How the bytes a token moved."""
    before, after = step.slopes
    if before is None or after is None or before == after:
        return ""
    return f", {after - before:+,} B a token ({before:,} to {after:,})"


def tensor_text(tensor: Tensor, length: int) -> str:
    """A kind of tensors: "2 × clone (1, L, 16, 128) bfloat16, 8,192 B a token, file.py:12"."""
    if tensor.op in STANDING:
        return f"{tensor.op}, {tensor.bytes:,} B in {tensor.count} tensors"
    tokens = next((t for t in (length, length + 1) if _grows(tensor.shape, t) and tensor.bytes % t == 0), 0)
    size = f"{tensor.bytes // tokens:,} B a token" if tokens else f"{tensor.bytes:,} B"
    return f"{tensor.count} × {tensor.op} {_shape(tensor, length)} {tensor.dtype}, {size}, {_place(tensor.source)}"


def _grows(shape: Sequence[int], length: int) -> bool:
    """Whether a size is of tokens: a multiple of them, a number of chunks, or that and the tokens of one beside it."""
    chunks = length // CHUNK
    return (
        any(size >= length and size % length == 0 for size in shape)
        or (chunks > MOST_AMBIGUOUS and chunks in shape)
        or (chunks, CHUNK) in pairwise(shape)
    )


def _shape(tensor: Tensor, length: int) -> str:
    return f"({', '.join('L + 1' if size == length + 1 else _times(size, length) for size in tensor.shape)})"


def _times(size: int, length: int) -> str:
    if size < length or size % length:
        return f"{size:,}"
    return "L" if size == length else f"{size // length}·L"


def _place(source: str) -> str:
    """A source line without the folders of the model."""
    return source.replace(MODELS, "")


def allocator_text(before: Stretch, after: Stretch, phase: Phase) -> Iterator[str]:
    """Where the requested peak of the longest context stayed and what the allocator makes of it did not."""
    old, new = before.last.observed(phase), after.first.observed(phase)
    if old.failed or new.failed or not (old.points and new.points):
        return
    a, b = old.points[-1], new.points[-1]
    if a.requested_bytes == b.requested_bytes and a != b:
        ends = f"{before.last.software.of(before.package)} to {after.first.software.of(after.package)}"
        yield (
            f"{ends}: the same requested, {b.allocated_bytes - a.allocated_bytes:+,} B allocated, "
            f"{b.reserved_bytes - a.reserved_bytes:+,} B reserved at {b.context_tokens:,} tokens"
        )
