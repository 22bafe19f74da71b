"""Tensors whose size follows from a ``config.json`` alone, and which of them an out-of-memory message is about.

Weights, gradients and optimizer states have one size; what a forward pass makes of every token has one for each number
of tokens, and almost any amount is some number of them. So a tensor is named only where the number is a rounder one
than chance would bring: a request that is printed as 7.58 GiB is 21 numbers of tokens wide as logits, and one of 21
in a row is a multiple of 16,384 once in 780 times.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from vram_ledger.analysis.formula.config import MOST, MOST_LAYERS, ConfigError, read_json
from vram_ledger.analysis.messages.message import Printed
from vram_ledger.analysis.messages.sizes import sizes_printed

Kind = Literal["weight", "tokens", "squares"]
"""One size; so many bytes a token of all sequences; so many for each pair of tokens of a sequence."""

HEAD = "lm_head"
MOST_CHANCE = 0.01  # that a size is so near a round shape by accident, for a tensor to be named
MOST_TOKENS = 2**22
ROUND_UNITS = (*(2**n for n in range(20, 5, -1)), 100_000, 50_000, 10_000, 5_000, 1_000, 500, 100)
BATCHES = (1, 2, 4, 8, 16, 32, 64)  # of which scores of whole sequences are looked at
FIELDS = {
    "vocabulary": ("vocab_size",),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim"),
    "layers": ("num_hidden_layers", "n_layer"),
    "query_heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_intermediate": ("moe_intermediate_size",),
    "conv_key_heads": ("linear_num_key_heads",),
    "conv_value_heads": ("linear_num_value_heads",),
    "conv_key_dim": ("linear_key_head_dim",),
    "conv_value_dim": ("linear_value_head_dim",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of a model. bytes: of all of it, of a token, or of a pair of tokens, by its kind.

    name: what it is; module: where it is made or kept; shape: in words, of V (vocabulary) and so on. likely: how often
    it is the one that finds no memory, of logits 1.
    """

    name: str
    module: str
    kind: Kind
    shape: str
    bytes: int
    element_bytes: int
    likely: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A tensor that a message can be about.

    tokens: of all sequences together, 0 of a weight; batch: of scores. bytes: at that shape. chance: how often a size
    lies so near by accident. models: whose it is.
    """

    tensor: Tensor
    batch: int
    tokens: int
    bytes: int
    chance: float
    models: tuple[str, ...]

    @property
    def score(self) -> float:
        """By which the candidates are ranked: how likely it is beside how easily chance does the same."""
        return self.tensor.likely / self.chance


def tensors_of(config: Path) -> list[Tensor]:
    """The tensors of any Hugging Face ``config.json``, as far as its fields go; :class:`ConfigError` for none."""
    sizes = _sizes(config)
    vocabulary, hidden = sizes["vocabulary"], sizes["hidden"]
    made = [*_weights(sizes), *_activations(sizes)]
    if not vocabulary or not hidden:
        raise ConfigError(f"{config}: neither vocab_size nor hidden_size in it, so no tensor's size follows")
    return made


def _weights(sizes: dict[str, int]) -> Iterator[Tensor]:
    hidden, inner = sizes["hidden"], sizes["intermediate"]
    query = sizes["query_heads"] * sizes["head_dim"]
    conv = 2 * sizes["conv_key_heads"] * sizes["conv_key_dim"] + sizes["conv_value_heads"] * sizes["conv_value_dim"]
    shapes = {
        ("embedding or head", "embed_tokens, lm_head", "V × H"): (sizes["vocabulary"] * hidden, 1.0),
        ("feed-forward matrix", "layers.*.mlp", "I × H"): (inner * hidden, 0.1),
        ("query or output projection", "layers.*.self_attn", "heads × H"): (query * hidden, 0.05),
        ("linear attention's projection", "layers.*.linear_attn", "channels × H"): (conv * hidden, 0.05),
        ("experts of a layer, gate and up", "layers.*.mlp.experts", "E × 2I × H"): (
            2 * sizes["experts"] * sizes["expert_intermediate"] * hidden,
            0.2,
        ),
        ("experts of a layer, down", "layers.*.mlp.experts", "E × I × H"): (
            sizes["experts"] * sizes["expert_intermediate"] * hidden,
            0.2,
        ),
    }
    for (name, module, shape), (elements, likely) in shapes.items():
        if elements:
            yield Tensor(
                name=f"{name}, in 16 bits", module=module, kind="weight", shape=shape, bytes=2 * elements,
                element_bytes=2, likely=likely,
            )  # fmt: skip
            yield Tensor(
                name=f"{name} in float32: a copy, a gradient or an optimizer's state", module=module, kind="weight",
                shape=shape, bytes=4 * elements, element_bytes=4, likely=likely * 0.4,
            )  # fmt: skip


def _activations(sizes: dict[str, int]) -> Iterator[Tensor]:
    heads = sizes["query_heads"]
    rows: dict[tuple[str, str, str], tuple[int, float, float]] = {  # elements, how likely in 16 bits, in float32
        ("logits of all tokens", HEAD, "B × L × V"): (sizes["vocabulary"], 1.0, 0.5),
        ("feed-forward activations", "layers.*.mlp", "B × L × I"): (sizes["intermediate"], 0.1, 0.03),
        ("hidden states", "layers.*", "B × L × H"): (sizes["hidden"], 0.03, 0.03),
    }
    for (name, module, shape), (elements, half, whole) in rows.items():
        if elements:
            yield Tensor(
                name=name, module=module, kind="tokens", shape=shape, bytes=2 * elements, element_bytes=2, likely=half
            )
            what = f"{name} in float32" + (", as a loss makes them" if module == HEAD else "")
            yield Tensor(
                name=what, module=module, kind="tokens", shape=shape, bytes=4 * elements, element_bytes=4, likely=whole
            )
    if heads:
        for element, dtype in ((2, "16 bits"), (4, "float32")):
            yield Tensor(
                name=f"attention scores in {dtype}, without a fused kernel", module="layers.*.self_attn",
                kind="squares", shape="B × heads × L × L", bytes=element * heads, element_bytes=element, likely=0.3,
            )  # fmt: skip


def named(
    tensors: dict[str, list[Tensor]],
    asked: Printed,
    shape: tuple[int, int] | None,
    loading: Mapping[str, bool] = MappingProxyType({}),
) -> list[Named]:
    """What a request can be of these models' tensors, the likeliest first; empty if none is likelier than chance.

    shape: batch and context of the run, where they are known: then only what has this size there. loading: of the
    models of which that is known, whether not all weights were there: then it is one of them, be it by chance or not.
    """
    owners: dict[Tensor, list[str]] = {}
    for model, own in tensors.items():
        for tensor in own:
            owners.setdefault(tensor, []).append(model)
    found: list[Named] = []
    for tensor, models in owners.items():
        weight, kept = tensor.kind == "weight", tensor.element_bytes == 4
        whose = tuple(m for m in models if (known := loading.get(m)) is None or known == weight or (kept and not known))
        if whose:
            sure = weight and any(loading.get(model) for model in whose)
            found += [
                Named(tensor=tensor, batch=batch, tokens=tokens, bytes=size, chance=chance, models=whose)
                for batch, tokens, size, chance in _fits(tensor, asked, shape)
                if sure or chance <= MOST_CHANCE
            ]
    return sorted(found, key=lambda one: -one.score)


def _fits(tensor: Tensor, asked: Printed, shape: tuple[int, int] | None) -> Iterator[tuple[int, int, int, float]]:
    """Batch, tokens, bytes and chance of the best shape in each range of sizes."""
    for least, most in sizes_printed(asked):
        width = (most - least) / most
        if tensor.kind == "weight":
            if least <= tensor.bytes <= most:
                yield 0, 0, tensor.bytes, max(width, 1e-4)
        elif shape is not None:
            batch, context = shape
            tokens = batch * context * (context if tensor.kind == "squares" else 1)
            if least <= tensor.bytes * tokens <= most:
                yield batch, batch * context, tensor.bytes * tokens, max(width, 1e-4)
        elif tensor.kind == "tokens":
            yield from _roundest(1, tensor.bytes, least, most, lambda tokens: tokens)
        else:
            every = [
                fit for batch in BATCHES for fit in _roundest(batch, tensor.bytes * batch, least, most, lambda n: n * n)
            ]
            if every:
                batch, tokens, size, chance = min(every, key=lambda fit: fit[3])
                yield batch, batch * tokens, size, chance * len(BATCHES)


def _roundest(
    batch: int, unit: int, least: int, most: int, of: Callable[[int], int]
) -> Iterator[tuple[int, int, int, float]]:
    """The roundest number of tokens whose bytes lie between two, and how often one so round does by chance."""
    root = (lambda n: n) if of(2) == 2 else math.isqrt
    first, last = root(-(-least // unit)), root(most // unit)
    first += of(first) * unit < least
    if not 1 <= first <= last <= MOST_TOKENS:
        return
    for step in ROUND_UNITS:
        if (tokens := -(-first // step) * step) <= last:
            yield batch, tokens, unit * of(tokens), (last - first + 1) / step
            return


def _sizes(config: Path) -> dict[str, int]:
    data = read_json(config)
    if not isinstance(data, dict):
        raise ConfigError(f"{config}: expected an object, got {type(data).__name__}")
    text = data.get("text_config", data)
    if not isinstance(text, dict):
        raise ConfigError(f"{config}: text_config must be an object, got {type(text).__name__}")
    sizes = {name: _positive(text, keys, config) for name, keys in FIELDS.items()}
    if not sizes["head_dim"] and sizes["query_heads"]:
        sizes["head_dim"] = sizes["hidden"] // sizes["query_heads"]
    if not sizes["expert_intermediate"]:
        sizes["expert_intermediate"] = sizes["intermediate"]
    return sizes


def _positive(text: dict[str, Any], keys: tuple[str, ...], config: Path) -> int:
    for key in keys:
        if (value := text.get(key)) is not None:
            limit = MOST_LAYERS if key == "num_hidden_layers" else MOST
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limit:
                raise ConfigError(f"{config}: {key} must be a positive integer of at most {limit:,}, got {value!r}")
            return value
    return 0
