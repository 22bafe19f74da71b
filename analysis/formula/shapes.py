"""A model's shapes, and what follows from them alone: parameters, resident and stored bytes.

Module structure: transformers 5.23.0, ``models/qwen3_5/modeling_qwen3_5.py`` (the class is named at each count). The
MTP tensors have no module there (``_keys_to_ignore_on_load_unexpected``); their count is from the checkpoints' bytes.
"""

from dataclasses import dataclass

from vram_ledger.harness.records import ModelClass


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionShapes:
    """Sizes of the vision tower. ``merge``: patches merged along each side; the rest are counts of elements."""

    depth: int
    hidden: int
    heads: int
    intermediate: int
    positions: int
    out_hidden: int
    channels: int
    patch: int
    temporal_patch: int
    merge: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Sizes of the text model, all counts of elements. The linear ones are 0 where no layer is linear.

    n_full, n_linear: layers with full attention and with Gated DeltaNet. regular: whether every so many layers one has
    full attention, the last among them, as in the published models. kv_heads, head_dim: of full attention, of
    which rotary_dim elements of each head are rotated.
    vision: ``None`` for a text-only config.
    """

    vocabulary: int
    hidden: int
    intermediate: int
    n_full: int
    n_linear: int
    regular: bool
    query_heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int
    attention_bias: bool
    linear_key_heads: int
    linear_value_heads: int
    linear_key_dim: int
    linear_value_dim: int
    conv_width: int
    tied_embeddings: bool
    mtp_layers: int
    vision: VisionShapes | None

    @property
    def conv_channels(self) -> int:
        """Channels of the short convolution: queries, keys and values of all linear heads side by side."""
        return 2 * self.linear_key_heads * self.linear_key_dim + self.linear_value_heads * self.linear_value_dim


def full_attention_parameters(shapes: Shapes) -> int:
    """Elements of one ``Qwen3_5Attention``: the query projection is doubled by the output gate."""
    query, kv, h = shapes.query_heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim, shapes.hidden
    projections = h * 2 * query + 2 * h * kv + query * h
    biases = 2 * query + 2 * kv + h if shapes.attention_bias else 0
    head_norms = 2 * shapes.head_dim
    return projections + biases + head_norms


def linear_attention_parameters(shapes: Shapes) -> int:
    """Elements of one ``Qwen3_5GatedDeltaNet``: in (qkv, z, b, a), conv1d, dt_bias, A_log, norm, out."""
    h, heads = shapes.hidden, shapes.linear_value_heads
    value = heads * shapes.linear_value_dim
    projections = h * shapes.conv_channels + h * value + 2 * h * heads + value * h
    convolution = shapes.conv_channels * shapes.conv_width
    return projections + convolution + 2 * heads + shapes.linear_value_dim


def feed_forward_parameters(shapes: Shapes) -> int:
    """Elements of one ``Qwen3_5MLP`` (gate, up, down) and its layer's two norms."""
    return 3 * shapes.hidden * shapes.intermediate + 2 * shapes.hidden


def text_parameters(shapes: Shapes) -> int:
    """Elements of ``Qwen3_5ForCausalLM``: embeddings, head unless tied, layers, final norm."""
    embeddings = shapes.vocabulary * shapes.hidden * (1 if shapes.tied_embeddings else 2)
    mixers = shapes.n_full * full_attention_parameters(shapes) + shapes.n_linear * linear_attention_parameters(shapes)
    layers = shapes.n_full + shapes.n_linear
    return embeddings + mixers + layers * feed_forward_parameters(shapes) + shapes.hidden


def mtp_parameters(shapes: Shapes) -> int:
    """Elements of the multi-token-prediction part: a 2h-to-h projection, full-attention layers, three norms."""
    if not shapes.mtp_layers:
        return 0
    layer = full_attention_parameters(shapes) + feed_forward_parameters(shapes)
    return 2 * shapes.hidden**2 + shapes.mtp_layers * layer + 3 * shapes.hidden


def vision_parameters(shapes: Shapes) -> int:
    """Elements of ``Qwen3_5VisionModel``: patch embedding, positions, blocks, merger; all with biases."""
    if shapes.vision is None:
        return 0
    v = shapes.vision
    h, i = v.hidden, v.intermediate
    patches = h * v.channels * v.temporal_patch * v.patch**2 + h
    positions = v.positions * h
    attention = 3 * h * h + 3 * h + h * h + h
    feed_forward = h * i + i + i * h + h
    norms = 2 * 2 * h
    merged = h * v.merge**2
    merger = 2 * h + merged * merged + merged + merged * v.out_hidden + v.out_hidden
    return patches + positions + v.depth * (attention + feed_forward + norms) + merger


def float32_elements(shapes: Shapes) -> int:
    """Elements that a checkpoint stores in float32: each linear layer's ``A_log`` and norm weight."""
    return shapes.n_linear * (shapes.linear_value_heads + shapes.linear_value_dim)


def resident_parameters(shapes: Shapes, model_class: ModelClass) -> int:
    """Elements that the transformers class keeps in memory. The MTP part never is: no class has it."""
    vision = vision_parameters(shapes) if model_class == "Qwen3_5ForConditionalGeneration" else 0
    return text_parameters(shapes) + vision


def buffers_bytes(shapes: Shapes, model_class: ModelClass) -> int:
    """Bytes of the registered buffers: the rotary frequencies, kept twice in float32, of the text model and the tower.

    The tower rotates half of each head, so it has half as many frequencies again.
    """
    frequencies = -(-shapes.rotary_dim // 2)
    if shapes.vision is not None and model_class == "Qwen3_5ForConditionalGeneration":
        frequencies += -(-(shapes.vision.hidden // shapes.vision.heads // 2) // 2)
    return 2 * 4 * frequencies


def weights_bytes(shapes: Shapes, model_class: ModelClass, element_bytes: int = 2) -> int:
    """Bytes of the resident parameters, every one cast to the dtype of ``element_bytes`` (bfloat16: 2)."""
    return element_bytes * resident_parameters(shapes, model_class)


def resident_bytes(shapes: Shapes, model_class: ModelClass, element_bytes: int = 2) -> int:
    """Bytes of weights and buffers."""
    return weights_bytes(shapes, model_class, element_bytes) + buffers_bytes(shapes, model_class)


def checkpoint_bytes(shapes: Shapes) -> int:
    """Bytes of all tensors in the published bfloat16 checkpoint, MTP and vision included."""
    parameters = text_parameters(shapes) + mtp_parameters(shapes) + vision_parameters(shapes)
    return 2 * parameters + 2 * float32_elements(shapes)
