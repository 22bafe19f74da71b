"""The values that pass between the stages: what was asked, on what machine, and what came of it.

Everything here is frozen, keyword-only and made of plain values; bytes are ``int``. :mod:`harness.lines` has how they
are stored. Beside the project's errors only the standard library is imported, so that any other program can read them.
"""

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vram_ledger.errors import InputError

Phase = Literal["prefill", "decode"]
PHASES: tuple[Phase, ...] = typing.get_args(Phase)
CacheKind = Literal["dynamic", "static", "none", "second"]
KernelPath = Literal["fla", "torch"]
LogitsKept = Literal["last", "all", "loss"]
ModelClass = Literal["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"]
DeviceKind = Literal["cuda", "emulated", "fake", "cpu"]
TOLD_ONLY = {"python", "platform"}

# The image processor of every Qwen3.5 checkpoint (preprocessor_config.json: patch_size, merge_size,
# temporal_patch_size, size.shortest_edge, size.longest_edge), and the shape that it refuses.
PATCH_PIXELS, MERGED_PIXELS = 16, 32
PATCH_FRAMES, CHANNELS = 2, 3
LEAST_PIXELS, MOST_PIXELS = 65_536, 16_777_216
MOST_ASPECT = 200
IMAGE_MARKERS = 2


class RecordError(InputError):
    """A results file, or a line of one, that can't be read; the message names the file and the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The images of a prompt: how many each sequence has, and the size of each in pixels, as the processor gets it.

    What the processor makes of them is the rule of ``Qwen2VLImageProcessor`` (transformers 5.24.0,
    models/qwen2_vl/image_processing_qwen2_vl.py, ``smart_resize``) with the values that every Qwen3.5 checkpoint has in
    its ``preprocessor_config.json``.
    """

    count: int
    height_pixels: int
    width_pixels: int

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width in pixels that the processor resizes to: whole merged patches, within the limits.

        :class:`ValueError` where it refuses the shape.
        """
        height, width = self.height_pixels, self.width_pixels
        if max(height, width) > MOST_ASPECT * min(height, width):
            raise ValueError(f"an image of {width}x{height} is more than {MOST_ASPECT} times as long as it is wide")
        fitted = tuple(round(side / MERGED_PIXELS) * MERGED_PIXELS for side in (height, width))
        if fitted[0] * fitted[1] > MOST_PIXELS:
            shrink = math.sqrt(height * width / MOST_PIXELS)
            sides = [max(1, math.floor(side / shrink / MERGED_PIXELS)) for side in (height, width)]
        elif fitted[0] * fitted[1] < LEAST_PIXELS:
            grow = math.sqrt(LEAST_PIXELS / (height * width))
            sides = [math.ceil(side * grow / MERGED_PIXELS) for side in (height, width)]
        else:
            return fitted[0], fitted[1]
        return sides[0] * MERGED_PIXELS, sides[1] * MERGED_PIXELS

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image's patches."""
        height, width = self.resized
        return height // PATCH_PIXELS, width // PATCH_PIXELS

    @property
    def patches(self) -> int:
        """Patches of one sequence's images: what the vision tower attends over, an image at a time."""
        rows, columns = self.grid
        return self.count * rows * columns

    @property
    def tokens(self) -> int:
        """Image tokens of one sequence: a token is four patches, merged."""
        return self.patches * PATCH_PIXELS**2 // MERGED_PIXELS**2

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt that a sequence's images take: their own, and a marker before and after each image."""
        return self.tokens + IMAGE_MARKERS * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything about a workload but its shape. Points of different configurations never share a fit.

    model: name of ``configs/models/<model>.json``. kernels: the delta-rule path asked for. attention: the
    transformers ``attn_implementation``. cache: "none" is ``use_cache=False``, "second" a dynamic one while that of
    another generation, of as many sequences and tokens, is still alive. logits: "loss" are all of them and the loss
    of the prompt, which the model takes in float32. prefill_chunk_tokens: 0 for a single-shot prefill. images:
    ``None`` for a prompt of text; else their tokens are part of the prompt's.
    """

    model: str
    model_class: ModelClass
    dtype: str
    kernels: KernelPath
    attention: str
    cache: CacheKind
    logits: LogitsKept
    prefill_chunk_tokens: int
    images: Images | None = None

    @property
    def kept_text(self) -> str:
        """What it keeps, in words: "dynamic cache, last logits"."""
        caches = {"none": "no cache", "second": "dynamic cache beside another one"}
        logits = "all logits and loss" if self.logits == "loss" else f"{self.logits} logits"
        return f"{caches.get(self.cache, f'{self.cache} cache')}, {logits}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One measured point. ``context_tokens`` is the prompt's length (prefill) or the tokens already cached (decode)."""

    configuration: Configuration
    phase: Phase
    context_tokens: int
    batch: int

    @property
    def cached_tokens(self) -> int:
        """Tokens a sequence has in the cache once the phase is over: a decode step adds one."""
        return self.context_tokens + (1 if self.phase == "decode" else 0)

    @property
    def input_tokens(self) -> int:
        """Tokens a sequence feeds to the model in this phase."""
        return 1 if self.phase == "decode" else self.context_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorProbe:
    """What the caching allocator did with one request: bytes asked, handed out and taken from the driver."""

    asked_bytes: int
    allocated_bytes: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and the software of one results file. ``None`` means that the thing is not there.

    device: "cuda" (a card: measured), "emulated" (the real PyTorch on a pretended card, no kernels), "fake"
    (allocations replayed on tensors without memory) or "cpu" (real tensors, for tests).
    gpu_label: the section of ``configs/gpus.toml``; "emulated-<label>" or "fake-<label>" where that card was only
    pretended.
    emulation: what decides an emulated card's bytes beside the wheel, as a hash of the stubs and of the card's values.
    compiled: whether Triton's kernels were really compiled and tuned on an emulated card (nothing runs them).
    python and platform are told for the reader and are not part of the fingerprint.
    """

    device: DeviceKind
    gpu_label: str
    gpu_name: str | None
    gpu_uuid: str | None
    gpu_total_bytes: int | None
    gpu_capability: str | None
    mig: str | None
    driver: str | None
    cuda: str | None
    torch: str
    transformers: str
    triton: str | None
    fla: str | None
    causal_conv1d: str | None
    allocator_settings: str
    allocator: tuple[AllocatorProbe, ...]
    weights: str
    config_sha256: str
    grid_sha256: str
    python: str
    platform: str
    gpu_multiprocessors: int | None = None
    cudnn: str | None = None
    emulation: str | None = None
    compiled: bool = False

    @property
    def card(self) -> str:
        """The section of ``configs/gpus.toml`` that was measured, emulated or answered for."""
        return self.gpu_label.removeprefix(f"{self.device}-")

    def fingerprint(self) -> str:
        """First 12 hex digits of the SHA-256 of every field that decides comparability.

        A field that schema 1 did not have counts only where it says something, so that old files keep their names.
        """
        added = {f.name: f.default for f in dataclasses.fields(self) if f.default is not dataclasses.MISSING}
        values = {k: v for k, v in encode(self).items() if k not in TOLD_ONLY and not (k in added and v == added[k])}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    def differences(self, other: "Environment") -> tuple[str, ...]:
        """Names of the fingerprint fields in which ``other`` differs."""
        mine, theirs = encode(self), encode(other)
        return tuple(k for k in mine if k not in TOLD_ONLY and mine[k] != theirs[k])


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Which implementation was seen to run, by the dotted name of the code, for each replaceable stage.

    "torch reference: …" marks transformers' own slow path. ``None``: the model has no such stage.
    """

    delta_rule: str | None
    convolution: str | None
    attention: str | None
    norm: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The high-water marks of one call, in bytes; see the README for what each one counts.

    ``None`` means that this device can't tell (the fake device knows only what was requested).
    """

    requested_bytes: int
    allocated_bytes: int | None
    reserved_bytes: int | None
    process_bytes: int | None
    device_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTensor:
    """One allocation alive at a peak: its storage's bytes, its first shape and dtype, and what made it."""

    bytes: int
    shape: tuple[int, ...]
    dtype: str
    op: str
    module: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakSite:
    """What was running when the peak was reached.

    stage: the part of the model, such as "linear_attn", "self_attn", "mlp" or "lm_head". The rest is known where
    the allocations are replayed: the op, the module's path, the source line ("package/file.py:line") and the
    largest tensors alive, weights left out.
    """

    stage: str
    op: str | None
    module: str | None
    source: str | None
    largest: tuple[LiveTensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Bytes of the storages that outlive the phase, read off the live cache, inputs and outputs, one field a term.

    media_bytes: pixel values and grids of the images, and the position offsets that the model keeps for them. Token
    ids, and the kinds of token that go with images, are inputs.
    """

    kv_cache_bytes: int
    recurrent_state_bytes: int
    conv_state_bytes: int
    logits_bytes: int
    inputs_bytes: int
    media_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Sum of all terms."""
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessedRead:
    """Bytes that a program read from an emulated card and that no copy to it had put there: they came back as zeros.

    source: the line of Python that asked. What the program did with them may not be what it does on a card.
    """

    source: str
    bytes: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vision:
    """The vision tower by itself, run on the images of a prompt's batch before anything of the language model.

    peak_bytes: requested while it ran, beyond what was there when it began (weights and pixel values). kept_bytes:
    what its result holds; of that, embeddings_bytes are the image tokens' embeddings. patches, tokens: of the batch.
    """

    patches: int
    tokens: int
    peak_bytes: int
    kept_bytes: int
    embeddings_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A workload that ran.

    weights_bytes: storages of the parameters, each once. buffers_bytes: those of the registered buffers.
    baseline_bytes: requested bytes before the workload made its first tensor (weights, buffers, library workspace).
    held_bytes: requested bytes after the phase, outputs and cache alive, the baseline included.
    cold: the first call of these shapes in the process; ``None`` on a device with nothing to warm up.
    setup_s: making the inputs and, for a decode, the cache. cold_s, warm_s: the forward pass alone, in seconds.
    tuned: whether Triton tuned a kernel in the cold run, which takes a buffer of its own; ``None`` if not looked at.
    guessed: what an emulated card had to invent in the warm run, or in the cold one only.
    vision: ``None`` for a prompt of text.
    """

    weights_bytes: int
    buffers_bytes: int
    baseline_bytes: int
    held_bytes: int
    held: Held
    cold: Peak | None
    warm: Peak
    site: PeakSite
    kernels: Kernels
    setup_s: float
    cold_s: float | None
    warm_s: float
    neighbour_bytes: int | None
    tuned: bool | None = None
    guessed: tuple[GuessedRead, ...] = ()
    vision: Vision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """A workload that did not fit: a result, not a fault. ``None`` where the allocator did not say.

    during: "build", "cache", "cold", "warm" or "traced". asked_bytes: the segment that the driver did not give, which
    is the request that failed in the allocator's rounding. free_bytes: what the driver had left. requested_bytes:
    what the program held when it asked. module, source: where it asked, the path of the innermost module that ran and
    the line ("package/file.py:line"); "" outside all modules, ``None`` in a file from before they were recorded.
    """

    during: str
    asked_bytes: int | None
    free_bytes: int | None
    requested_bytes: int | None
    module: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A workload that ended without a result: "crash" (the process died), "hang" (deadline) or "error"."""

    reason: Literal["crash", "hang", "error"]
    message: str


Outcome = Measured | OutOfMemory | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One line of a results file. ``repeat`` is 0 for the campaign's own run, 1 for the check in a fresh process."""

    workload: Workload
    repeat: int
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """A workload that ran once, as the cold run of a measurement does: what it took.

    baseline_bytes: requested bytes before its first tensor. retries: how often the allocator had to give its unused
    segments back before the driver had enough, in the forward pass. tuned, guessed: as of :class:`Measured`.
    """

    baseline_bytes: int
    peak: Peak
    retries: int
    setup_s: float
    forward_s: float
    tuned: bool | None = None
    guessed: tuple[GuessedRead, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Whether one workload fits. fresh: asked of a process that had built the model and run nothing."""

    workload: Workload
    fresh: bool
    outcome: Fits | OutOfMemory | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The longest context that fits, as bisection finds it: one token more does not.

    fits_tokens: 0 where not even one token fits; most_tokens where all that was asked for does, which is then all that
    is known. confirmed: whether fresh processes said the same of both contexts.
    """

    configuration: Configuration
    phase: Phase
    batch: int
    most_tokens: int
    fits_tokens: int
    confirmed: bool

    def at(self, context_tokens: int) -> Workload:
        """The workload of a context."""
        return Workload(
            configuration=self.configuration, phase=self.phase, context_tokens=context_tokens, batch=self.batch
        )

    @property
    def beside(self) -> dict[int, bool]:
        """The contexts that an edge lies between, and whether they fit: one of them only, where it is at an end."""
        both = {self.fits_tokens: True, self.fits_tokens + 1: False}
        return {tokens: fits for tokens, fits in both.items() if 1 <= tokens <= self.most_tokens}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """The check standard: fixed requests and one matrix product, no model. It moves only if the machine moves.

    when: "start" or "end" of a campaign's run. probes: fixed requests. workspace_bytes: what one bf16 matrix product
    left allocated (the BLAS workspace). context_bytes: device memory in use beside the allocator's own.
    """

    when: Literal["start", "end"]
    probes: tuple[AllocatorProbe, ...]
    workspace_bytes: int
    context_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsFile:
    """A results file in memory: its environment and its lines, in order. notes: what was not quite in order on disk.

    A campaign has measurements, a search for the boundary probes and edges.
    """

    path: Path
    environment: Environment
    measurements: tuple[Measurement, ...]
    standards: tuple[Standard, ...]
    notes: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    edges: tuple[Edge, ...] = ()


KINDS: dict[str, type] = {
    "environment": Environment,
    "measurement": Measurement,
    "standard": Standard,
    "probe": Probe,
    "edge": Edge,
    "measured": Measured,
    "fits": Fits,
    "out_of_memory": OutOfMemory,
    "failure": Failure,
}
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}


def encode(value: Any) -> Any:
    """The JSON form of a record: a dict of its fields, with ``kind`` where a reader must choose between types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        kind = _KIND_OF.get(type(value))
        return fields if kind is None else {"kind": kind, **fields}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return value


def decode(cls: Any, data: Any, where: str = "record") -> Any:
    """The value of type ``cls`` whose JSON form is ``data``; :class:`RecordError` names the field that does not fit."""
    origin = typing.get_origin(cls)
    if origin in (types.UnionType, typing.Union):
        return _decode_union(cls, data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise RecordError(f"{where}: expected a list, got {data!r}")
        each = typing.get_args(cls)[0]
        if each in (int, str) and all(type(item) is each for item in data):
            return tuple(data)
        return tuple(decode(each, item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        key_type, value_type = typing.get_args(cls)
        if not isinstance(data, dict):
            raise RecordError(f"{where}: expected an object, got {data!r}")
        return {decode(key_type, k, where): decode(value_type, v, f"{where}.{k}") for k, v in data.items()}
    if origin is Literal:
        if data not in typing.get_args(cls):
            raise RecordError(f"{where}: expected one of {', '.join(typing.get_args(cls))}, got {data!r}")
        return data
    if dataclasses.is_dataclass(cls):
        return _decode_dataclass(cls, data, where)
    if cls is float and type(data) is int:
        return float(data)
    if type(data) is not cls:
        raise RecordError(f"{where}: expected {cls.__name__}, got {data!r}")
    return data


def _decode_union(cls: Any, data: Any, where: str) -> Any:
    members = typing.get_args(cls)
    if data is None and type(None) in members:
        return None
    members = tuple(m for m in members if m is not type(None))
    if len(members) == 1:
        return decode(members[0], data, where)
    kind = data.get("kind") if isinstance(data, dict) else None
    for member in members:
        if _KIND_OF.get(member) == kind:
            return decode(member, data, where)
    raise RecordError(f"{where}: unknown kind {kind!r}")


_hints = functools.cache(typing.get_type_hints)


def _decode_dataclass(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise RecordError(f"{where}: expected an object, got {data!r}")
    hints = _hints(cls)
    given = {k: v for k, v in data.items() if k != "kind"}
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if missing := [n for n, f in fields.items() if n not in given and f.default is dataclasses.MISSING]:
        raise RecordError(f"{where}: missing field {', '.join(missing)}")
    if unknown := [n for n in given if n not in fields]:
        raise RecordError(f"{where}: unknown field {', '.join(unknown)}")
    return cls(**{name: decode(hints[name], given[name], f"{where}.{name}") for name in fields if name in given})
