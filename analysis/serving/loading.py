"""What vLLM prints as "Model loading took": its tensors, in the order of their making, through the allocator's rules.

The order: ``vllm/model_executor/models/qwen3_5.py``, ``qwen3_vl.py`` (the vision tower first) and ``qwen3_next.py``
(release 0.20): projections merged as they are there. The line prints ``torch.cuda.max_memory_allocated``, so blocks
count, not what was asked for; the tower's tensors of some MB leave rests that are too small to split off.
"""

from collections.abc import Callable, Iterator

from vram_ledger.analysis.allocation.rules import CachingAllocator
from vram_ledger.analysis.formula.shapes import Shapes, VisionShapes

FLOAT32_BYTES = 4
SCALES = 4  # of an attention layer's queries, keys, values and probabilities (model_executor/layers/attention/)
VISION_POSITIONS = 8192  # rows of the tower's rotary table (vllm/model_executor/models/qwen3_vl.py)


def loaded_bytes(shapes: Shapes, text: bool, element_bytes: int, rotary_rows: int) -> int:
    """Bytes of the allocator's blocks when the model has been made, the rotary tables with it."""
    sizes: list[int] = []
    steps: list[int] = []

    def made(size: int) -> int:
        sizes.append(size)
        steps.append(len(sizes) - 1)
        return len(sizes) - 1

    if shapes.vision is not None and not text:
        for elements in _vision(shapes.vision):
            made(elements * element_bytes)
    made(shapes.vocabulary * shapes.hidden * element_bytes)
    table_made = False
    for kind in _kinds(shapes):
        if kind == "full":
            for elements in _attention(shapes):
                made(elements * element_bytes)
            if not table_made:
                _table(shapes, element_bytes, rotary_rows, made, steps)
                table_made = True
            for size in (*[FLOAT32_BYTES] * SCALES, *[shapes.head_dim * element_bytes] * 2):
                made(size)
        else:
            for elements, size in _delta(shapes, element_bytes):
                made(elements * size)
        for elements in _rest(shapes):
            made(elements * element_bytes)
    made(shapes.hidden * element_bytes)
    if not shapes.tied_embeddings:
        made(shapes.vocabulary * shapes.hidden * element_bytes)
    allocator = CachingAllocator()
    allocator.run(steps, sizes)
    return allocator.held.allocated_bytes


def _kinds(shapes: Shapes) -> Iterator[str]:
    layers = shapes.n_full + shapes.n_linear
    every = layers // shapes.n_full if shapes.n_full else layers + 1
    for layer in range(1, layers + 1):
        yield "full" if layer % every == 0 else "linear"


def _vision(vision: VisionShapes) -> Iterator[int]:
    h, i, merged = vision.hidden, vision.intermediate, vision.hidden * vision.merge**2
    yield from (h * vision.channels * vision.temporal_patch * vision.patch**2, h, vision.positions * h)
    yield VISION_POSITIONS * (h // vision.heads // 2)
    yield from (h, h, merged * merged, merged, merged * vision.out_hidden, vision.out_hidden)
    for _ in range(vision.depth):
        yield from (h, h, h, h, 3 * h * h, 3 * h, h * h, h, h * i, i, i * h, h)


def _attention(shapes: Shapes) -> tuple[int, int]:
    """Queries with their gates, keys and values in one; and the output."""
    query, kv = shapes.query_heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    return shapes.hidden * (2 * query + 2 * kv), query * shapes.hidden


def _delta(shapes: Shapes, element_bytes: int) -> Iterator[tuple[int, int]]:
    """Elements and their bytes: convolution, qkv and z, b and a, dt_bias, A_log, norm, output."""
    heads, value = shapes.linear_value_heads, shapes.linear_value_heads * shapes.linear_value_dim
    yield shapes.conv_channels * shapes.conv_width, element_bytes
    yield shapes.hidden * (shapes.conv_channels + value), element_bytes
    yield shapes.hidden * 2 * heads, element_bytes
    yield heads, element_bytes
    yield heads, FLOAT32_BYTES
    yield shapes.linear_value_dim, FLOAT32_BYTES
    yield value * shapes.hidden, element_bytes


def _rest(shapes: Shapes) -> tuple[int, ...]:
    """Gate and up in one, down, and the two norms."""
    return shapes.hidden * 2 * shapes.intermediate, shapes.intermediate * shapes.hidden, shapes.hidden, shapes.hidden


def _table(shapes: Shapes, element_bytes: int, rows: int, made: Callable[[int], int], steps: list[int]) -> None:
    """The rotary table, with what is made on the way in float32: frequencies, positions, angles, cosines, sines."""
    frequencies = made(shapes.rotary_dim // 2 * FLOAT32_BYTES)
    positions = made(rows * FLOAT32_BYTES)
    halves = [made(rows * shapes.rotary_dim // 2 * FLOAT32_BYTES) for _ in range(3)]
    whole = made(rows * shapes.rotary_dim * FLOAT32_BYTES)
    steps.extend(~number for number in (frequencies, positions, *halves))
    made(rows * shapes.rotary_dim * element_bytes)
    steps.append(~whole)
