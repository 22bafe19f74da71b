"""The formula: exact terms from the shapes, and the forms that the transient of a forward pass is fitted to.

Peak = baseline (weights, buffers, workspace) + inputs + cache and state + transient (+ logits, where the peak is in
the head). The exact terms are the tensors that transformers 5.17 and 5.23 keep (``cache_utils.py`` and
``models/qwen3_5/modeling_qwen3_5.py``). The transient's form follows from the program: along one code path every
allocation is an integer combination of 1, B, L, B·L and B·⌈L/64⌉.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vram_ledger.analysis.formula.config import ConfigError
from vram_ledger.analysis.formula.shapes import Shapes, weights_bytes
from vram_ledger.harness.records import (
    CHANNELS,
    PATCH_FRAMES,
    PATCH_PIXELS,
    Configuration,
    Measured,
    Phase,
    Vision,
    Workload,
)

ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
STATE_ELEMENT_BYTES = 4  # the recurrent state is float32 whatever the weights' dtype
TOKEN_ID_BYTES = 8  # input ids are int64, and so are the kinds of token that go with images
PIXEL_BYTES = 4  # the processor gives float32 (transformers 5.24.0, models/qwen2_vl/image_processing_qwen2_vl.py)
PLACE_BYTES = 8  # a sequence's position offset and the three numbers of an image's grid are int64
COUNTER_BYTES = 8  # StaticLayer.cumulative_length, an int64 on the device in transformers 5.17.0 and 5.23.0
PADDED_STAGE = "linear_attn"
CHUNK_TOKENS = 64  # fla 0.6.0, ops/gated_delta_rule/chunk.py; transformers' torch reference has the same chunk


def element_bytes(configuration: Configuration) -> int:
    """Bytes of one element of the configuration's dtype; :class:`ConfigError` for a dtype without a known size."""
    if configuration.dtype not in ELEMENT_BYTES:
        raise ConfigError(f"dtype {configuration.dtype!r} is not one of {', '.join(ELEMENT_BYTES)}")
    return ELEMENT_BYTES[configuration.dtype]


def kv_bytes_per_token(shapes: Shapes, element_bytes: int = 2) -> int:
    """Bytes that one token of one sequence takes in the KV cache: keys and values of every full-attention layer."""
    return 2 * shapes.n_full * shapes.kv_heads * shapes.head_dim * element_bytes


def recurrent_bytes_per_sequence(shapes: Shapes) -> int:
    """Bytes of one sequence's recurrent state: a key-by-value matrix a head and linear layer, in float32."""
    matrix = shapes.linear_key_dim * shapes.linear_value_dim
    return shapes.n_linear * shapes.linear_value_heads * matrix * STATE_ELEMENT_BYTES


def conv_bytes_per_sequence(shapes: Shapes, element_bytes: int = 2) -> int:
    """Bytes of one sequence's convolution state: transformers keeps all ``conv_width`` columns, not one less."""
    return shapes.n_linear * shapes.conv_channels * shapes.conv_width * element_bytes


def weights(shapes: Shapes, workload: Workload) -> int:
    """Bytes of the parameters of the workload's model class."""
    configuration = workload.configuration
    return weights_bytes(shapes, configuration.model_class, element_bytes(configuration))


def kv_cache(shapes: Shapes, workload: Workload) -> int:
    """Bytes of keys and values after the phase, and of a static cache's counters.

    A static cache's window is made for the cached tokens, so it is otherwise as large as a dynamic one.
    """
    per_token = kv_bytes_per_token(shapes, element_bytes(workload.configuration))
    return per_token * batch_cached_tokens(workload) + cache_counters(shapes, workload)


def cache_counters(shapes: Shapes, workload: Workload) -> int:
    """Bytes of the token counter that a static cache keeps for each full-attention layer; 0 in a dynamic one."""
    return shapes.n_full * COUNTER_BYTES if workload.configuration.cache == "static" else 0


def recurrent_state(shapes: Shapes, workload: Workload) -> int:
    """Bytes of the batch's recurrent states; they do not depend on the context."""
    return recurrent_bytes_per_sequence(shapes) * workload.batch * caches(workload)


def conv_state(shapes: Shapes, workload: Workload) -> int:
    """Bytes of the batch's convolution states; they do not depend on the context."""
    return conv_bytes_per_sequence(shapes, element_bytes(workload.configuration)) * workload.batch * caches(workload)


def caches(workload: Workload) -> int:
    """How many generations' caches there are beside each other: one, if the program keeps any and no other is alive."""
    return {"none": 0, "second": 2}.get(workload.configuration.cache, 1)


def logits(shapes: Shapes, workload: Workload) -> int:
    """Bytes of the logits returned: for the last token, or for every input token where all are kept."""
    return shapes.vocabulary * element_bytes(workload.configuration) * logit_positions(workload)


def inputs(shapes: Shapes, workload: Workload) -> int:
    """Bytes of the token ids fed in, and beside images of as many kinds of token."""
    return TOKEN_ID_BYTES * batch_input_tokens(workload) * (2 if sees(workload) else 1)


def sees(workload: Workload) -> bool:
    """Whether the phase is given images."""
    return workload.configuration.images is not None and workload.phase == "prefill"


def media(shapes: Shapes, workload: Workload) -> int:
    """Bytes of the pixel values, the grids and the position offsets; 0 for text.

    A patch's pixels are there for every channel and, an image being a film that stands still, for every frame.
    """
    images = workload.configuration.images
    if images is None or not sees(workload):
        return 0
    pixels = images.patches * CHANNELS * PATCH_FRAMES * PATCH_PIXELS**2 * PIXEL_BYTES
    return workload.batch * (pixels + (3 * images.count + 1) * PLACE_BYTES)


def image_tokens(workload: Workload) -> int:
    """Image tokens of the batch, markers left out."""
    images = workload.configuration.images
    return 0 if images is None else workload.batch * images.tokens


def image_embeddings(shapes: Shapes, workload: Workload) -> int:
    """Bytes of the image tokens' embeddings, as wide as the text's (``Qwen3_5VisionPatchMerger``, ``linear_fc2``)."""
    width = 0 if shapes.vision is None else shapes.vision.out_hidden
    return image_tokens(workload) * width * element_bytes(workload.configuration)


def vision_result(shapes: Shapes, workload: Workload) -> int:
    """Bytes of all that the vision tower returns: beside the embeddings the patches that they were merged from.

    The model holds both until it returns (``Qwen3_5Model.forward``, transformers 5.23.0 and 5.24.0).
    """
    if shapes.vision is None:
        return 0
    unmerged = image_tokens(workload) * shapes.vision.merge**2 * shapes.vision.hidden
    return image_embeddings(shapes, workload) + unmerged * element_bytes(workload.configuration)


def nothing(shapes: Shapes, workload: Workload) -> int:
    """0: the term is proportional to its count."""
    return 0


def one(workload: Workload) -> int:
    """1: the term does not depend on batch or context."""
    return 1


def sequences(workload: Workload) -> int:
    """Sequences in the batch."""
    return workload.batch


def batch_cached_tokens(workload: Workload) -> int:
    """Tokens in the cache after the phase, over the batch; with those of another generation that is still alive."""
    cache = workload.configuration.cache
    if cache == "none":
        return 0
    return workload.batch * (workload.cached_tokens + (workload.context_tokens if cache == "second" else 0))


def batch_input_tokens(workload: Workload) -> int:
    """Tokens fed in, over the batch."""
    return workload.batch * workload.input_tokens


def logit_positions(workload: Workload) -> int:
    """Positions whose logits are returned, over the batch."""
    every = workload.configuration.logits != "last" and workload.phase == "prefill"
    return workload.batch * (workload.input_tokens if every else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """An exact term: its bytes after the phase, and where a measurement has them.

    The bytes are proportional to ``count``, but for the few of ``fixed``.
    """

    name: str
    unit: str
    bytes: Callable[[Shapes, Workload], int]
    count: Callable[[Workload], int]
    fixed: Callable[[Shapes, Workload], int]
    observed: Callable[[Measured], int]

    def coefficient(self, shapes: Shapes, workload: Workload) -> int:
        """Bytes per count, the same for every workload of a configuration."""
        return (self.bytes(shapes, workload) - self.fixed(shapes, workload)) // self.count(workload)


def _term(
    name: str,
    unit: str,
    bytes: Callable[[Shapes, Workload], int],
    count: Callable[[Workload], int],
    fixed: Callable[[Shapes, Workload], int] = nothing,
) -> Term:
    def observed(measured: Measured) -> int:
        value: int = getattr(measured if name == "weights" else measured.held, f"{name}_bytes")
        return value

    return Term(name=name, unit=unit, bytes=bytes, count=count, fixed=fixed, observed=observed)


TERMS: tuple[Term, ...] = (
    _term("weights", "B", weights, one),
    _term("kv_cache", "B/token", kv_cache, batch_cached_tokens, cache_counters),
    _term("recurrent_state", "B/sequence", recurrent_state, sequences),
    _term("conv_state", "B/sequence", conv_state, sequences),
    _term("logits", "B/position", logits, logit_positions),
    _term("inputs", "B/token", inputs, batch_input_tokens),
)
MEDIA_TERMS: tuple[Term, ...] = (_term("media", "B/sequence", media, sequences),)


def _seen(name: str, bytes: Callable[[Shapes, Workload], int], observed: Callable[[Vision], int]) -> Term:
    return Term(
        name=name,
        unit="B/image token",
        bytes=bytes,
        count=image_tokens,
        fixed=nothing,
        observed=lambda measured: 0 if measured.vision is None else observed(measured.vision),
    )


# Bytes after the vision tower, not after the phase.
VISION_TERMS: tuple[Term, ...] = (
    _seen("image_embeddings", image_embeddings, lambda vision: vision.embeddings_bytes),
    _seen("vision_result", vision_result, lambda vision: vision.kept_bytes),
)


def held_terms(configuration: Configuration) -> tuple[Term, ...]:
    """The exact terms that a configuration has after a phase."""
    return TERMS if configuration.images is None else TERMS + MEDIA_TERMS


def exact_terms(configuration: Configuration) -> tuple[Term, ...]:
    """All exact terms of a configuration."""
    return TERMS if configuration.images is None else TERMS + MEDIA_TERMS + VISION_TERMS


def predict(shapes: Shapes, workload: Workload) -> dict[str, int]:
    """Bytes of every exact term after the phase, by the term's name."""
    return {term.name: term.bytes(shapes, workload) for term in held_terms(workload.configuration)}


def transient_bytes(workload: Workload, measured: Measured) -> int:
    """Bytes at the warm requested peak beyond the baseline and what the phase holds; may be negative.

    What is held is what this run was seen to hold, not what the formula expects: a drifted term is then flagged
    once, under its own name. They are the same bytes wherever the exact terms agree. A decode step starts with
    one token less in a dynamic cache than it ends with; a static one has its whole window from the start. The
    logits are out only where the peak is in the head: before it they are not yet there.
    """
    held = measured.held
    cache = held.kv_cache_bytes
    if workload.configuration.cache == "dynamic":
        cache = cache * workload.context_tokens // workload.cached_tokens
    logits_alive = held.logits_bytes if measured.site.stage == "lm_head" else 0
    states = held.recurrent_state_bytes + held.conv_state_bytes
    given = held.inputs_bytes + held.media_bytes
    return measured.warm.requested_bytes - measured.baseline_bytes - given - cache - states - logits_alive


# Columns of a transient's design, in the order in which they are kept: batch and context tokens -> count.
COLUMNS: dict[str, Callable[[int, int], int]] = {
    "constant": lambda batch, tokens: 1,
    "per_sequence": lambda batch, tokens: batch,
    "per_position": lambda batch, tokens: tokens,
    "per_token": lambda batch, tokens: batch * tokens,
    # c·B·⌈L/64⌉ is c/64 of B·L and of B·(padding tokens); this way an unpadded grid merely lacks the column.
    "per_padding_token": lambda batch, tokens: batch * (-tokens % CHUNK_TOKENS),
    "per_pair": lambda batch, tokens: batch * tokens * tokens,
}
UNITS = {
    "constant": "B",
    "per_sequence": "B/sequence",
    "per_position": "B/position",
    "per_token": "B/token",
    "per_padding_token": "B/padding token",
    "per_pair": "B/token²",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """One code path. What was running at the peak decides it, never which form fits best.

    phase: ``None`` where both phases share the form. batches: "1" and "2+" are apart in a decode, where a
    ``contiguous()`` copies nothing at batch 1. stage, op, source: of the peak, "" where not known or of no account.
    """

    phase: Phase | None
    batches: Literal["all", "1", "2+"]
    stage: str
    op: str
    source: str

    @property
    def label(self) -> str:
        """The regime in words, such as "prefill, linear_attn, empty_like"."""
        batches = "" if self.batches == "all" else f"batch {self.batches}"
        return ", ".join(part for part in (self.phase or "both phases", batches, self.stage, self.op) if part)


def transient_columns(configuration: Configuration, regime: Regime) -> tuple[str, ...]:
    """Names of the columns that a transient of this configuration and regime can depend on.

    Only the delta rule pads to chunks, and what it pads is gone when its module returns. A decode step is one
    token, so nothing is padded and no score matrix or mask is L by L.
    """
    columns = ["constant", "per_sequence", "per_position", "per_token"]
    if regime.phase == "prefill" and regime.stage == PADDED_STAGE:
        columns.append("per_padding_token")
    if regime.phase == "prefill" and configuration.attention == "eager":
        columns.append("per_pair")
    return tuple(columns)


def phase_regime(phase: Phase | None) -> Regime:
    """The regime of a term that does not depend on what ran at the peak."""
    return Regime(phase=phase, batches="all", stage="", op="", source="")


def batches_of(workload: Workload) -> Literal["all", "1", "2+"]:
    """The batches that share a workload's code path."""
    if workload.phase != "decode":
        return "all"
    return "1" if workload.batch == 1 else "2+"


def regime_of(workload: Workload, measured: Measured) -> Regime:
    """The regime of a measurement's transient."""
    site = measured.site
    batches = batches_of(workload)
    return Regime(phase=workload.phase, batches=batches, stage=site.stage, op=site.op or "", source=site.source or "")
