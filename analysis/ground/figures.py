"""Files of figures that somebody published: TOML, a record a figure, beside it how it is answered here."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_ledger.analysis.ground.printed import FigureError, Printed, read_printed
from vram_ledger.home import RESULTS

PUBLIC = RESULTS / "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class FromProtocol:
    """A script that was run on an emulated card. at: which of the numbers it told. part: of an out-of-memory message:
    asked, total, free, process, allocated or unallocated."""

    protocol: str
    at: str
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromProgram:
    """A derived program. quantity: requested, allocated or reserved; or, of a phase that runs out of memory, asked,
    free or held (what was allocated then). The rest is as ``make predict`` takes it."""

    quantity: str
    model: str
    variant: str = ""
    phase: str = "prefill"
    batch: int = 1
    context: int = 1
    chunk: int = 0
    card: str = ""
    memory: str = ""
    outside: str = ""
    transformers: str = ""
    allocator: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromCard:
    """What ``configs/gpus.toml`` says of a card. quantity: total, or outside (beside the allocator, of one process)."""

    card: str
    quantity: str = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class FromExpression:
    """Arithmetic over a config's sizes (``model``) or over ``sizes``, and over what else was printed (``given``)."""

    expression: str
    model: str = ""
    sizes: Mapping[str, int]
    given: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FromRuntime:
    """A server's own term, as ``make predict RUNTIME=`` has it. pool: as printed, in bytes or, of vLLM, in tokens.

    context: of the longest request. batch: sequences, or slots of states. cards: that share the model.
    """

    runtime: str
    term: str
    model: str
    text: bool = False
    context: int = 4096
    batch: int = 1
    kv_type: str = ""
    prefix_caching: bool | None = None
    drafts: int = 0
    cards: int = 1
    pool: str = ""


Answer = FromProtocol | FromProgram | FromCard | FromExpression | FromRuntime


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One published figure.

    address: repository and thread or file; "" where only the public file's own words are known, which are then
    ``found``. ran, card, versions: as far as stated. apart: by how much our answer is known to be off, as it would be
    printed. tried: what was tried to explain that, or why there is no answer.
    """

    name: str
    address: str
    found: str
    ran: str
    card: str
    versions: str
    quantity: str
    printed: Printed
    answer: Answer | None
    apart: Printed | None
    tried: str
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A script to be run on an emulated card. script: its path; {models} in an argument is the folder of configs."""

    name: str
    script: Path
    card: str
    arguments: tuple[str, ...]
    folder: Path

    @property
    def stored(self) -> Path:
        """Where what it told is kept."""
        return self.folder / "protocols" / f"{self.name}.json"


KINDS: dict[str, type[Answer]] = {
    "protocol": FromProtocol,
    "program": FromProgram,
    "card": FromCard,
    "expression": FromExpression,
    "runtime": FromRuntime,
}
SIMPLE: dict[Any, str] = {int: "a whole number", str: "text", bool: "true or false", bool | None: "true or false"}
REQUIRED = ("name", "ran", "quantity", "printed")
FREE = ("address", "found", "card", "versions", "tried")
KNOWN = {*REQUIRED, *FREE, "unit", "finely", "answer", "apart"}


def read_published() -> tuple[list[Figure], dict[str, Protocol]]:
    """The figures and protocols of the repository, ``results/public/*.toml``."""
    return read_all(sorted(PUBLIC.glob("*.toml")))


def read_all(paths: Iterable[Path]) -> tuple[list[Figure], dict[str, Protocol]]:
    """The figures of several files, and their protocols by name."""
    figures: list[Figure] = []
    protocols: dict[str, Protocol] = {}
    for path in paths:
        own, scripts = read_figures(path)
        figures += own
        protocols |= {script.name: script for script in scripts}
    return figures, protocols


def read_figures(path: Path) -> tuple[list[Figure], list[Protocol]]:
    """The figures and protocols of a file; :class:`FigureError` names the figure and the field that is wrong."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no TOMLDecodeError
        raise FigureError(f"{path}: not TOML ({str(error).partition(';')[0]})") from error
    if unknown := [key for key in data if key not in ("figures", "protocols")]:
        raise FigureError(f"{path}: {unknown[0]!r} is neither [[figures]] nor [[protocols]]")
    figures = [_figure(path, n, entry) for n, entry in enumerate(_tables(path, data, "figures"), 1)]
    protocols = [_protocol(path, entry) for entry in _tables(path, data, "protocols")]
    for kind, names in (("figures", [f.name for f in figures]), ("protocols", [p.name for p in protocols])):
        if twice := [name for name in names if names.count(name) > 1]:
            raise FigureError(f"{path}: two {kind} are called {twice[0]!r}")
    if not figures:
        raise FigureError(f"{path}: no [[figures]] in it; docs/evidence.md says what one has")
    return figures, protocols


def _tables(path: Path, data: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = data.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise FigureError(f"{path}: {name} are written as [[{name}]], each with its fields below")
    return found


def _figure(path: Path, number: int, entry: dict[str, Any]) -> Figure:
    where = f"{path}: figure {entry.get('name', number)!r}"
    if missing := [key for key in REQUIRED if not entry.get(key)]:
        raise FigureError(f"{where}: missing {', '.join(missing)}")
    if unknown := [key for key in entry if key not in KNOWN]:
        raise FigureError(f"{where}: unknown field {unknown[0]!r}; there are {', '.join(sorted(KNOWN))}")
    if wrong := [key for key in entry if key != "answer" and not isinstance(entry[key], str)]:
        raise FigureError(f"{where}: {wrong[0]} is text, in quotes")
    if not entry.get("address") and not entry.get("found"):
        raise FigureError(f"{where}: missing address (repository and thread or file)")
    try:
        printed = read_printed(entry["printed"], entry.get("unit", ""), entry.get("finely", ""))
        apart = read_printed(entry["apart"], entry.get("unit", "")) if entry.get("apart") else None
        answer = _answer(entry["answer"]) if "answer" in entry else None
    except FigureError as error:
        raise FigureError(f"{where}: {error}") from error
    if (apart or answer is None) and not entry.get("tried"):
        raise FigureError(f"{where}: missing tried: what was tried to explain it, or why there is no answer")
    if apart and answer is None:
        raise FigureError(f"{where}: apart is the difference of an answer, and there is none")
    return Figure(
        name=entry["name"],
        ran=entry["ran"],
        quantity=entry["quantity"],
        printed=printed,
        answer=answer,
        apart=apart,
        file=path,
        **{key: entry.get(key, "") for key in FREE},
    )


def _answer(entry: object) -> Answer:
    kinds = [kind for kind in KINDS if kind in entry] if isinstance(entry, dict) else []
    if not isinstance(entry, dict) or not kinds:
        raise FigureError(f"answer is a table with one of {', '.join(KINDS)}")
    kind = "program" if "program" in kinds else "protocol" if "protocol" in kinds else kinds[-1]
    fields = dict(entry)
    if kind == "program":
        asked = fields.pop("program")
        if not isinstance(asked, dict):
            raise FigureError("program is a table: model, phase, batch, context …")
        fields |= asked
    cls = KINDS[kind]
    types: dict[str, Any] = {name: field.type for name, field in cls.__dataclass_fields__.items()}
    if kind == "expression":
        fields = {"sizes": {}, "given": {}} | fields
    if unknown := [name for name in fields if name not in types]:
        raise FigureError(f"answer has no field {unknown[0]!r}; by {kind} it has {', '.join(types)}")
    for name, value in fields.items():
        simple = types[name] in SIMPLE
        right = isinstance(value, types[name] if simple else dict)
        if not right or (isinstance(value, bool) and types[name] is int):
            raise FigureError(f"answer: {name} is {SIMPLE.get(types[name], 'a table')}, got {value!r}")
    _check_tables(fields)
    try:
        return cls(**fields)
    except TypeError as error:
        raise FigureError(f"answer by {kind}: {str(error).partition(') ')[2] or error}") from error


def _check_tables(fields: dict[str, Any]) -> None:
    for name, kind in (("sizes", int), ("given", str)):
        for key, value in fields.get(name, {}).items():
            if not isinstance(value, kind) or isinstance(value, bool):
                wanted = "a whole number" if kind is int else 'as printed, such as "55.08 GiB"'
                raise FigureError(f"answer: {name}.{key} is {wanted}, got {value!r}")


def _protocol(path: Path, entry: dict[str, Any]) -> Protocol:
    where = f"{path}: protocol {entry.get('name', '')!r}"
    texts = ("name", "script", "card")
    if missing := [key for key in texts if not isinstance(entry.get(key), str)]:
        raise FigureError(f"{where}: missing {', '.join(missing)}")
    arguments = entry.get("arguments", [])
    if not isinstance(arguments, list) or not all(isinstance(a, str) for a in arguments):
        raise FigureError(f"{where}: arguments are a list of texts")
    return Protocol(
        name=entry["name"],
        script=path.parent / entry["script"],
        card=entry["card"],
        arguments=tuple(arguments),
        folder=path.parent,
    )
