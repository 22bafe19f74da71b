"""A grid file: which workloads a campaign measures. One complete TOML file names a campaign; no flag changes it.

Top-level fields are the axes (lists: every combination is measured) and the campaign's settings; each ``[[points]]``
block gives phases, contexts and batches, all combinations of them, and may give any axis anew for its own points.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from vram_ledger.errors import InputError
from vram_ledger.harness.inputs import InputFields, read_toml
from vram_ledger.harness.records import (
    PHASES,
    Configuration,
    Images,
    KernelPath,
    ModelClass,
    Phase,
    Workload,
)
from vram_ledger.names import MOST_BATCH, nearest, plain

MOST_CONTEXT_TOKENS = 4_194_304
WORST_CONDITION = 30.0
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
DTYPES = ("bfloat16", "float16", "float32")
CACHES, LOGITS = ("dynamic", "static"), ("last", "all")  # of campaigns; make boundary asks for others, too
NO_IMAGES = "none"
IMAGES = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,5})x([1-9]\d{0,5})")
SEES = "Qwen3_5ForConditionalGeneration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A campaign: its workloads in running order, and how they are run.

    path: ``None`` for workloads that no grid file lists. repeats: workloads measured again in fresh processes.
    deadline_s: a workload that takes longer has hung.
    """

    name: str
    path: Path | None
    workloads: tuple[Workload, ...]
    repeats: int
    deadline_s: int


def known_names(folder: Path, suffix: str) -> tuple[str, ...]:
    """The names that files of a folder stand for."""
    return tuple(sorted(p.name.removesuffix(suffix) for p in folder.glob(f"*{suffix}")))


def named_file(folder: Path, name: str, suffix: str, what: str) -> Path:
    """The file that a name or a path stands for; :class:`InputError` lists the near misses."""
    if name.endswith(suffix) and ("/" in name or Path(name).exists()):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{what} file {name} does not exist")
        return path
    known = known_names(folder, suffix)
    for one in known:
        if plain(one) == plain(name) and not name.startswith((".", "/")):
            return folder / f"{one}{suffix}"
    raise InputError(
        f"no {what} is called {name!r}{nearest(name, known)}; configs/{folder.name} has {', '.join(known)}"
    )


def read_grid(path: Path, model: str) -> Grid:
    """The campaign of a grid file for one model; :class:`InputError` names the file, the place and the field."""
    fields = InputFields(read_toml(path), str(path))
    repeats = fields.count("repeats", most=100, default=2, least=0)
    deadline_s = fields.count("deadline_s", most=86_400, default=300)
    axes = _axes(fields, None)
    blocks = fields.tables("points")
    fields.no_others()
    workloads: list[Workload] = []
    for number, block in enumerate(blocks, start=1):
        workloads += _block(InputFields(block, f"{path}: [[points]] block {number}"), axes, model)
    ordered = tuple(sorted(dict.fromkeys(workloads), key=_running_order))
    _check_identifiable(ordered, path)
    return Grid(name=path.stem, path=path, workloads=ordered, repeats=repeats, deadline_s=deadline_s)


def _axes(fields: InputFields, given: dict[str, tuple[Any, ...]] | None) -> dict[str, tuple[Any, ...]]:
    """Every axis: as this table gives it, else as ``given``, else the default."""

    def default(name: str, value: Any) -> tuple[Any, ...]:
        return (value,) if given is None else given[name]

    def texts(name: str, value: str, among: tuple[str, ...]) -> tuple[str, ...]:
        return fields.texts(name, default=default(name, value), among=among)

    return {
        "model_class": texts("model_class", "Qwen3_5ForConditionalGeneration", get_args(ModelClass)),
        "dtype": texts("dtype", "bfloat16", DTYPES),
        "kernels": texts("kernels", "fla", get_args(KernelPath)),
        "attention": texts("attention", "sdpa", ATTENTIONS),
        "cache": texts("cache", "dynamic", CACHES),
        "logits": texts("logits", "last", LOGITS),
        "prefill_chunk_tokens": fields.counts(
            "prefill_chunk_tokens", MOST_CONTEXT_TOKENS, default=default("prefill_chunk_tokens", 0), least=0
        ),
        "images": fields.texts("images", default=default("images", NO_IMAGES)),
    }


def _block(fields: InputFields, given: dict[str, tuple[Any, ...]], model: str) -> list[Workload]:
    phases = cast(tuple[Phase, ...], fields.texts("phases", default=PHASES, among=PHASES))
    contexts = fields.counts("contexts_tokens", MOST_CONTEXT_TOKENS)
    batches = fields.counts("batches", MOST_BATCH)
    axes = _axes(fields, given)
    fields.no_others()
    axes["images"] = tuple(images_of(fields, text) for text in axes["images"])
    workloads = [
        workload_of(Configuration(model=model, **dict(zip(axes, values, strict=True))), phase, context, batch)
        for values in itertools.product(*axes.values())
        for phase, context, batch in itertools.product(phases, contexts, batches)
    ]
    for workload in workloads:
        if reason := cannot_see(workload):
            raise fields.error("images", reason)
    return workloads


def images_of(fields: InputFields, text: str) -> Images | None:
    """The images that an entry of the axis stands for: "none", or "COUNTxWIDTHxHEIGHT" for those of each sequence."""
    if text == NO_IMAGES:
        return None
    found = IMAGES.fullmatch(text)
    if found is None:
        raise fields.error("images", f"{text!r} is neither {NO_IMAGES!r} nor COUNTxWIDTHxHEIGHT, such as '1x1920x1080'")
    count, width, height = map(int, found.groups())
    return Images(count=count, height_pixels=height, width_pixels=width)


def cannot_see(workload: Workload) -> str:
    """Why a workload's images can't be in its prompt; "" if nothing speaks against it."""
    c = workload.configuration
    if c.images is None:
        return ""
    if min(c.images.count, c.images.height_pixels, c.images.width_pixels) < 1:
        return f"{images_text(c.images)}: count, width and height are 1 or more"
    if workload.phase == "decode":
        return "a decode sees no images: their tokens are in the cache like any others"
    if c.model_class != SEES:
        return f"{c.model_class} has no vision tower; take {SEES}"
    if c.prefill_chunk_tokens:
        return "a prompt with images is prefilled in one piece; take prefill_chunk_tokens = [0]"
    try:
        needed = c.images.prompt_tokens
    except ValueError as error:
        return str(error)
    if needed <= workload.context_tokens:
        return ""
    return (
        f"{images_text(c.images)} take {needed:,} tokens, markers included; "
        f"a prompt of {workload.context_tokens:,} can't hold them"
    )


def images_text(images: Images) -> str:
    """The images as a grid file writes them."""
    return f"{images.count}x{images.width_pixels}x{images.height_pixels}"


def workload_of(configuration: Configuration, phase: Phase, context: int, batch: int) -> Workload:
    """A workload. A decode keeps one token's logits and has no prefill, so it is the same whatever those axes say.

    Nor does it see images: their tokens are in the cache like any others.
    """
    if phase == "decode":
        fields = {name: getattr(configuration, name) for name in Configuration.__slots__}
        configuration = Configuration(**fields | {"logits": "last", "prefill_chunk_tokens": 0, "images": None})
    return Workload(configuration=configuration, phase=phase, context_tokens=context, batch=batch)


def build_of(configuration: Configuration) -> tuple[str, ...]:
    """What decides the model that a worker has in memory: workloads that share it can share a process."""
    c = configuration
    return (c.model, c.model_class, c.dtype, c.kernels, c.attention)


def _running_order(workload: Workload) -> tuple[Any, ...]:
    """One build after the other; in a build from small to large, so that what fits is known before memory runs out."""
    w = workload
    c = w.configuration
    size = w.batch * w.context_tokens
    images = "" if c.images is None else images_text(c.images)
    return (build_of(c), size, w.context_tokens, w.phase, c.cache, c.logits, c.prefill_chunk_tokens, images)


def _check_identifiable(workloads: tuple[Workload, ...], path: Path) -> None:
    groups: dict[tuple[Configuration, str], set[tuple[int, int]]] = {}
    for w in workloads:
        groups.setdefault((w.configuration, w.phase), set()).add((w.batch, w.context_tokens))
    for (configuration, phase), points in groups.items():
        if reason := unidentifiable(points):
            kept = f"{configuration.kernels}, {configuration.cache} cache, logits {configuration.logits}"
            if configuration.images is not None:
                kept += f", images {images_text(configuration.images)}"
            raise InputError(f"{path}: the {phase} points ({kept}) can't identify the formula: {reason}")


def unidentifiable(points: set[tuple[int, int]]) -> str | None:
    """Why (batch, context) points can't tell a constant, a part per sequence and a part per token apart, or ``None``.

    Judged by the rank and the scaled condition number (columns of unit length) of the design [1, B, B·L].
    """
    if len(points) < 3:
        return f"{len(points)} point(s), at least 3 are needed"
    design = np.array([(1.0, b, b * c) for b, c in sorted(points)])
    scaled = design / np.linalg.norm(design, axis=0)
    if np.linalg.matrix_rank(scaled) < 3:
        return "all lie on one line in [1, B, B·L]; take at least two batches and two contexts, not all at one batch"
    condition = float(np.linalg.cond(scaled))
    if condition >= WORST_CONDITION:
        return (
            f"scaled condition number {condition:.0f}, the limit is {WORST_CONDITION:.0f}; "
            "add corners, such as small and large batches at the shortest and a long context"
        )
    return None
