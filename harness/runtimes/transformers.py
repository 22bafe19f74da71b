"""Runs a model through Hugging Face transformers on any device: builds it, feeds it, and reads off what it keeps.

The model is built from its config with random weights, on the device, in the configuration's dtype: nothing is
downloaded and no code of a checkpoint is run. Calls run under ``no_grad``, as ``generate`` does.
"""

import importlib
import importlib.metadata
import inspect
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vram_ledger.harness.devices import Device
from vram_ledger.harness.records import Configuration, Held, Kernels, Workload
from vram_ledger.harness.runtimes.media import Media, known_values, prompt_with

TORCH_REFERENCE = "torch reference: "
AHEAD = (
    "transformers.modeling_utils",
    "transformers.cache_utils",
    "transformers.masking_utils",
    "transformers.models.qwen3_5.configuration_qwen3_5",
)
AHEAD_OF_FLA = ("torch._inductor.compile_fx", "torch.distributed.tensor.experimental", "triton")
MODELING = "transformers.models.qwen3_5.modeling_qwen3_5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model on a device. weights_bytes, buffers_bytes: storages of parameters and of buffers, each once."""

    model: Any
    text_config: Any
    configuration: Configuration
    device: Device
    weights_bytes: int
    buffers_bytes: int


@dataclass(slots=True, kw_only=True)
class Live:
    """The tensors of one run that the program holds; the outputs are added by :func:`forward`.

    cache: ``None`` where the program keeps none. other: the cache of another generation, still alive.
    offsets: what the images take less in positions than in tokens, which the model keeps for the tokens to come.
    """

    input_ids: torch.Tensor
    cache: Any
    other: Any = None
    media: Media | None = None
    logits: tuple[torch.Tensor, ...] = ()
    offsets: torch.Tensor | None = None


def import_ahead(for_fla: bool) -> None:
    """Imports what every worker needs, whatever its kernels; ``for_fla``: also what fla will want, 2 seconds of it."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in AHEAD + (AHEAD_OF_FLA if for_fla else ()):
        try:
            importlib.import_module(name)
        except ImportError:  # not there on every platform or in every version; who needs it will say so
            continue


def can_fork() -> bool:
    """Whether a forked process could use a card: not after an import that asked for one (PyTorch 2.11's inductor)."""
    pid = os.fork()
    if pid == 0:
        os._exit(int(torch.cuda._is_in_bad_fork()))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def choose_kernels(configuration: Configuration) -> None:
    """Makes transformers take the configuration's kernel path; must run before transformers is imported.

    transformers takes fla wherever the import succeeds (integrations/hub_kernels.py, 5.17.0 and 5.23.0), so the
    reference path is had by making the import fail.
    """
    if configuration.kernels == "torch":
        sys.modules["fla"] = None  # type: ignore[assignment]
        sys.modules["causal_conv1d"] = None  # type: ignore[assignment]


def software() -> dict[str, Any]:
    """The versions of a fingerprint. A package that is there but can't be imported says so."""
    return {
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
        "triton": _version("triton", "triton"),
        "fla": _version("flash-linear-attention", "fla"),
        "causal_conv1d": _version("causal-conv1d", "causal_conv1d"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _version(distribution: str, module: str) -> str | None:
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    if module in sys.modules and sys.modules[module] is None:
        return version  # kept out on purpose, for the reference path
    try:
        importlib.import_module(module)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        return f"{version} (import fails: {type(error).__name__})"
    return version


def load(configuration: Configuration, config_file: Path, device: Device, weights: Path | None) -> Loaded:
    """The model on the device, ready to run. ``weights``: a checkpoint directory to read instead of random values."""
    from transformers import Qwen3_5Config

    config = Qwen3_5Config.from_json_file(str(config_file))
    config.text_config._attn_implementation = configuration.attention
    for part in (config, config.text_config, config.vision_config):
        part.dtype = getattr(torch, configuration.dtype)  # a config's own dtype would be built instead
    model_class = getattr(importlib.import_module("transformers"), configuration.model_class)
    own_config = config if configuration.model_class == "Qwen3_5ForConditionalGeneration" else config.text_config
    if weights is None:
        model = _built(model_class, own_config, configuration, device)
    else:
        model = model_class.from_pretrained(
            weights,
            config=own_config,
            dtype=getattr(torch, configuration.dtype),
            device_map={"": device.name},
            attn_implementation=configuration.attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    model.eval()
    return Loaded(
        model=model,
        text_config=config.text_config,
        configuration=configuration,
        device=device,
        weights_bytes=storage_bytes(model.parameters()),
        buffers_bytes=storage_bytes(model.buffers()),
    )


def _built(model_class: Any, config: Any, configuration: Configuration, device: Device) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, configuration.dtype))
    try:
        with torch.device(device.name):
            return model_class._from_config(config, attn_implementation=configuration.attention)
    finally:
        torch.set_default_dtype(before)


def storage_bytes(tensors: Any) -> int:
    """Bytes of the storages behind the tensors, each storage once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def prepare(loaded: Loaded, workload: Workload, filled: bool = True) -> Live:
    """Inputs and cache of a workload.

    For a decode the cache holds ``context_tokens`` tokens of each sequence: written directly (``filled``), or left
    behind by a prefill. Both leave the same bytes (a test shows it), and writing needs no prefill's transient.
    """
    device = loaded.device.name
    other = None
    if workload.configuration.cache == "second":
        other = _empty_cache(loaded, workload)
        _fill(loaded, workload, other)
    if workload.phase == "prefill" and workload.configuration.images is not None:
        ids, media = with_images(loaded, workload)
        return Live(input_ids=ids, cache=_empty_cache(loaded, workload), other=other, media=media)
    if workload.phase == "prefill":
        ids = torch.zeros(workload.batch, workload.context_tokens, dtype=torch.long, device=device)
        return Live(input_ids=ids, cache=_empty_cache(loaded, workload), other=other)
    cache = _empty_cache(loaded, workload)
    if cache is None:
        raise ValueError("without a cache there is no decode step")
    if filled:
        _fill(loaded, workload, cache)
    else:
        ids = torch.zeros(workload.batch, workload.context_tokens, dtype=torch.long, device=device)
        _call(loaded, ids, cache, logits_to_keep=1)
        del ids
    return Live(input_ids=torch.zeros(workload.batch, 1, dtype=torch.long, device=device), cache=cache, other=other)


def with_images(loaded: Loaded, workload: Workload) -> tuple[torch.Tensor, Media]:
    """Token ids and media of a prefill with images; :class:`ValueError` where this model can't be given them."""
    images = workload.configuration.images
    if images is None or not hasattr(loaded.model.config, "vision_config"):
        raise ValueError(f"{workload.configuration.model_class} is given no images")
    return prompt_with(images, workload.batch, workload.context_tokens, loaded.model.config, loaded.device)


def see(loaded: Loaded, media: Media) -> tuple[Any, torch.Tensor]:
    """Runs the vision tower alone: all that its result holds, and the embeddings of the image tokens therein.

    As ``Qwen3_5Model.forward`` does (transformers 5.23.0 and 5.24.0), which keeps the result to its end.
    """
    with torch.no_grad(), known_values(loaded.device, asked=True):
        out = loaded.model.model.get_image_features(media.pixel_values, media.image_grid_thw, return_dict=True)
    return out, out.pooler_output[0]


def _empty_cache(loaded: Loaded, workload: Workload) -> Any:
    from transformers import DynamicCache, StaticCache

    if workload.configuration.cache == "none":
        return None
    if workload.configuration.cache == "static":
        return StaticCache(config=loaded.text_config, max_cache_len=workload.cached_tokens)
    own = getattr(sys.modules[MODELING], "Qwen3_5DynamicCache", None)  # the family's own, up to transformers 5.4
    return (own or DynamicCache)(config=loaded.text_config)


def _fill(loaded: Loaded, workload: Workload, cache: Any) -> None:
    """Puts ``context_tokens`` zero tokens into the cache through its own update methods, layer by layer."""
    text, batch = loaded.text_config, workload.batch
    made = {"dtype": getattr(torch, loaded.configuration.dtype), "device": loaded.device.name}
    heads, width = text.linear_num_value_heads, text.linear_conv_kernel_dim
    key_dim, value_dim = text.linear_key_head_dim, text.linear_value_head_dim
    channels = 2 * text.linear_num_key_heads * key_dim + heads * value_dim
    for index, layer_type in enumerate(text.layer_types):
        if layer_type == "full_attention":
            tokens = torch.zeros(
                batch, text.num_key_value_heads, workload.context_tokens, text.head_dim, **made
            )  # fmt: skip
            # A cache with layers copies what it is given; the family's own keeps it.
            cache.update(tokens, tokens if hasattr(cache, "layers") else tokens.clone(), index)
        else:
            keep_conv, keep_state = _keepers(cache)
            keep_conv(torch.zeros(batch, channels, width, **made), index)
            state = torch.zeros(batch, heads, key_dim, value_dim, dtype=torch.float32, device=made["device"])
            keep_state(state, index)


def _keepers(cache: Any) -> tuple[Callable[[torch.Tensor, int], Any], Callable[[torch.Tensor, int], Any]]:
    """What puts a layer's convolution and recurrent state into a cache: its methods; an older one has bare lists."""
    if hasattr(cache, "update_conv_state"):
        return cache.update_conv_state, cache.update_recurrent_state

    def into(kept: list[torch.Tensor | None]) -> Callable[[torch.Tensor, int], None]:
        def keep(state: torch.Tensor, index: int) -> None:
            kept[index] = state

        return keep

    return into(cache.conv_states), into(cache.recurrent_states)


def forward(loaded: Loaded, workload: Workload, live: Live, before_call: Callable[[], None] = lambda: None) -> None:
    """Runs the phase; the kept logits are left in ``live``. A chunked prefill calls the model several times."""
    logits = "last" if workload.phase == "decode" else workload.configuration.logits
    keep = 1 if logits == "last" else 0
    chunk = workload.configuration.prefill_chunk_tokens if workload.phase == "prefill" else 0
    pieces = live.input_ids.split(chunk, dim=1) if chunk else (live.input_ids,)
    media = {} if live.media is None else live.media.arguments()
    for piece in pieces:
        before_call()
        kept = live.logits if keep == 0 else ()
        live.logits = kept
        labels = {"labels": piece} if logits == "loss" else {}
        with known_values(loaded.device, live.media is not None or live.cache is None):
            live.logits = (*kept, _call(loaded, piece, live.cache, logits_to_keep=keep, **labels, **media))
    if live.media is not None:
        # Left on the model it would change the next workload's decode, and be in its baseline.
        live.offsets, loaded.model.model.rope_deltas = loaded.model.model.rope_deltas, None


def _call(
    loaded: Loaded, input_ids: torch.Tensor, cache: Any, logits_to_keep: int, **more: torch.Tensor
) -> torch.Tensor:
    kept = {"use_cache": False} if cache is None else {"use_cache": True, _cache_argument(loaded.model): cache}
    with torch.no_grad():
        out = loaded.model(input_ids=input_ids, logits_to_keep=logits_to_keep, **kept, **more)
    return out.logits  # type: ignore[no-any-return]


def _cache_argument(model: Any) -> str:
    """What the model calls its cache: transformers 5.24.0 renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def held(live: Live) -> Held:
    """Bytes of the storages that the cache, the inputs and the outputs keep alive, by term."""
    caches = [cache for cache in (live.cache, live.other) if cache is not None]
    layers = [layer for cache in caches for layer in getattr(cache, "layers", [cache])]
    kinds = [] if live.media is None else [live.media.mm_token_type_ids]
    media = [] if live.media is None else [live.media.pixel_values, live.media.image_grid_thw]
    offsets = [] if live.offsets is None else [live.offsets]
    keys = ("keys", "values", "key_cache", "value_cache", "cumulative_length")
    return Held(
        kv_cache_bytes=storage_bytes(_tensors(layers, keys)),
        recurrent_state_bytes=storage_bytes(_tensors(layers, ("recurrent_states",))),
        conv_state_bytes=storage_bytes(_tensors(layers, ("conv_states",))),
        logits_bytes=storage_bytes(live.logits),
        inputs_bytes=storage_bytes([live.input_ids, *kinds]),
        media_bytes=storage_bytes([*media, *offsets]),
    )


def _tensors(layers: Any, names: tuple[str, ...]) -> Iterator[torch.Tensor]:
    for layer in layers:
        for name in names:
            value = getattr(layer, name, None)
            members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
            yield from (m for m in members if isinstance(m, torch.Tensor))


class _Ops(TorchDispatchMode):
    """The names of the ops that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def observe(loaded: Loaded, workload: Workload) -> Kernels:
    """The implementations that really run, seen by running a small workload of the same configuration and phase.

    A small shape takes the same path: none of the choices depends on it. Every Python function entered and every
    op dispatched is noted, so a fall-back that logs nothing is seen too.
    """
    ops = _Ops()
    with _functions_entered() as entered, ops:
        forward(loaded, workload, prepare(loaded, workload))
    return Kernels(
        delta_rule=_delta_rule(entered),
        convolution=_convolution(entered),
        attention=_attention(ops.names, entered),
        norm=_norm(entered),
    )


@contextmanager
def _functions_entered() -> Iterator[set[str]]:
    entered: set[str] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            entered.add(f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield entered
    finally:
        sys.setprofile(before)


def _first(entered: set[str], fits: Callable[[str], bool]) -> str | None:
    return min((name for name in entered if fits(name)), default=None)


def _delta_rule(entered: set[str]) -> str | None:
    rule = {name for name in entered if "_gated_delta_rule" in name}
    fla = "fla.ops.gated_delta_rule."
    backend = _first(rule, lambda n: n.startswith(f"{fla}backends.") and n.endswith("_gated_delta_rule"))
    plain = _first(rule, lambda n: n.startswith(fla) and "_gated_delta_rule_fwd" in n)
    hub = _first(rule, lambda n: not n.startswith(("fla.", "transformers.", "harness.")))
    reference = _first(rule, lambda n: n.startswith(f"{MODELING}.torch_") and n.endswith("_gated_delta_rule"))
    return backend or plain or hub or (TORCH_REFERENCE + reference if reference else None)


def _convolution(entered: set[str]) -> str | None:
    package = _first(entered, lambda n: n.startswith("causal_conv1d.") and n.endswith(("_fn", "_update")))
    reference = _first(entered, lambda n: n.startswith(f"{MODELING}.causal_conv1d_"))
    return package or (TORCH_REFERENCE + reference if reference else None)


def _attention(ops: set[str], entered: set[str]) -> str | None:
    fused = min((n for n in ops if "scaled_dot_product" in n and "choice" not in n), default=None)
    flash = _first(entered, lambda n: n.startswith(("flash_attn.", "flash_attn_interface.")))
    eager = _first(entered, lambda n: n == f"{MODELING}.eager_attention_forward")
    sdpa = _first(entered, lambda n: n.endswith(".sdpa_attention_forward"))
    return fused or flash or eager or ("scaled_dot_product_attention: math" if sdpa else None)


def _norm(entered: set[str]) -> str | None:
    return _first(entered, lambda n: "RMSNormGated.forward" in n)
