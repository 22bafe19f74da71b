"""A table of predictions: a CSV that answers requests, one row a workload or, where a key is blank, any of them."""

import csv
import re
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path

from vram_ledger.analysis.estimating.breakdown import FIELDS, Breakdown, Declined, EstimatorError, Request, checked
from vram_ledger.harness.records import PHASES
from vram_ledger.names import plain, tokens

KEYS = ("model", "dtype", "phase", "context_tokens", "batch")
SEPARATORS = ",;\t"

Key = tuple[str, ...]
GIVEN = sorted(product((True, False), repeat=len(KEYS)), key=sum, reverse=True)  # which keys, the most first


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row: where it stands, the workloads that it is about ("" is any), and its answer."""

    line: int
    key: Key
    answer: Breakdown


class Predictions:
    """The rows of a file, and which of them have answered; made by :func:`read_predictions`."""

    def __init__(self, path: Path, rows: dict[Key, Row]) -> None:
        self._path, self._rows, self._used = path, rows, set[int]()

    def estimate(self, request: Request) -> Breakdown:
        """The answer of the row with the most keys that fit; :class:`Declined` if no row does.

        :class:`EstimatorError` if several rows with as many keys fit, and answer differently.
        """
        workload = request.workload
        shape = (workload.phase, str(workload.context_tokens), str(workload.batch))
        asked = (plain(request.model), workload.configuration.dtype, *shape)
        for _, several in groupby(GIVEN, key=sum):
            keys = (tuple(k if given else "" for k, given in zip(asked, which, strict=True)) for which in several)
            if fitting := [self._rows[key] for key in keys if key in self._rows]:
                break
        else:
            raise Declined(f"{request.text}: no row in {self._path} answers it")
        if len({row.answer for row in fitting}) > 1:
            lines = " and ".join(str(row.line) for row in fitting)
            raise EstimatorError(f"{self._path}: lines {lines} fit {request.text} equally well: fill in one key more")
        self._used.update(row.line for row in fitting)
        return fitting[0].answer

    def unused(self) -> tuple[str, ...]:
        """The rows that have answered nothing, by line and key."""
        rows = (row for row in self._rows.values() if row.line not in self._used)
        return tuple(f"{self._path}:{row.line} ({_text(row.key)})" for row in rows)


def read_predictions(path: Path) -> Predictions:
    """The table of a CSV in UTF-8; :class:`EstimatorError` names the line that is not as it should be.

    The header names keys (a missing key is blank everywhere) and the fields of a breakdown. Columns are separated by
    what the header has: commas, semicolons or tabs.
    """
    rows: dict[Key, Row] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, strict=True, delimiter=max(SEPARATORS, key=first.count))
            reader.fieldnames = _header(path, reader.fieldnames)
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if None in cells or None in cells.values():
                    raise EstimatorError(f"{where}: the row has another number of cells than the header")
                texts = {name: text.strip() for name, text in cells.items()}
                if not any(texts.values()):
                    continue
                key = tuple(_key(name, texts.get(name, ""), where) for name in KEYS)
                if key in rows:
                    raise EstimatorError(f"{where}: a second row for {_text(key)}; the first is line {rows[key].line}")
                answer = checked({name: _number(texts[name]) for name in FIELDS if texts.get(name)}, where)
                rows[key] = Row(line=reader.line_num, key=key, answer=answer)
    except (csv.Error, UnicodeDecodeError) as error:
        raise EstimatorError(f"{path}: not a CSV in UTF-8 ({error})") from error
    if not rows:
        raise EstimatorError(f"{path}: there is no row below the header")
    return Predictions(path, rows)


def _header(path: Path, names: object) -> list[str]:
    header = [str(name).strip() for name in names] if isinstance(names, list) else []
    if "model" not in header or "total_bytes" not in header:
        raise EstimatorError(f"{path}:1: the header needs model and total_bytes, got {', '.join(header) or 'nothing'}")
    if unknown := [name for name in header if name not in (*KEYS, *FIELDS)]:
        raise EstimatorError(f"{path}:1: unknown column {', '.join(unknown)}; {', '.join((*KEYS, *FIELDS))} are known")
    if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        raise EstimatorError(f"{path}:1: column {', '.join(twice)} is there twice")
    return header


def _key(name: str, text: str, where: str) -> str:
    """A key's cell as it is looked up; one that no workload can have is an error, for it would never answer."""
    if not text or name == "dtype":
        return text.lower()
    if name == "model":
        return plain(text)
    if name == "context_tokens":
        return str(tokens(text, f"{where}: {name}"))
    if name == "phase" and text.lower() not in PHASES:
        raise EstimatorError(f"{where}: phase is {' or '.join(PHASES)}, got {text!r}")
    if name == "batch" and not re.fullmatch(r"0*[1-9]\d{0,9}(\.0+)?", text):
        raise EstimatorError(f"{where}: batch is a number of sequences, got {text!r}")
    return str(int(float(text))) if name == "batch" else text.lower()


def _text(key: Key) -> str:
    return ", ".join(part or f"any {name}" for name, part in zip(KEYS, key, strict=True))


def _number(text: str) -> float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
