"""A table of predictions: a CSV that answers requests, one row a workload or, where a key is blank, any of them."""

import csv
from pathlib import Path

from vram_ledger.analysis.estimating.breakdown import FIELDS, Breakdown, Estimator, EstimatorError, Request, checked

KEYS = ("model", "dtype", "phase", "context_tokens", "batch")

Key = tuple[str, ...]


def read_predictions(path: Path) -> Estimator:
    """The estimator that looks requests up; :class:`EstimatorError` names the line that is not as it should be.

    The header names keys (a missing key is blank everywhere) and the fields of a breakdown. A row for the very
    workload goes before one with blanks.
    """
    table: dict[Key, Breakdown] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_header(path, reader.fieldnames)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise EstimatorError(f"{where}: the row has another number of cells than the header")
                key = tuple((row.get(name) or "").strip() for name in KEYS)
                if key in table:
                    raise EstimatorError(f"{where}: a second row for {', '.join(part or 'any' for part in key)}")
                values = {name: _number(row[name]) for name in FIELDS if row.get(name)}
                table[key] = checked(values, where)
    except (csv.Error, UnicodeDecodeError) as error:
        raise EstimatorError(f"{path}: not a CSV in UTF-8 ({error})") from error

    def estimate(request: Request) -> Breakdown:
        for key in _keys(request):
            if key in table:
                return table[key]
        raise EstimatorError(f"{request.text}: no row in {path} answers it")

    return estimate


def _check_header(path: Path, names: object) -> None:
    header = list(names) if isinstance(names, list) else []
    if "model" not in header or "total_bytes" not in header:
        raise EstimatorError(f"{path}:1: the header needs model and total_bytes, got {', '.join(header) or 'nothing'}")
    if unknown := [name for name in header if name not in (*KEYS, *FIELDS)]:
        raise EstimatorError(f"{path}:1: unknown column {', '.join(unknown)}; {', '.join((*KEYS, *FIELDS))} are known")


def _keys(request: Request) -> list[Key]:
    """The request's key, then those with ever more blanks."""
    workload = request.workload
    model, dtype = request.model, workload.configuration.dtype
    context, batch = str(workload.context_tokens), str(workload.batch)
    wholes = [(workload.phase, context, batch), ("", context, batch), (workload.phase, "", ""), ("", "", "")]
    return [(model, kind, *rest) for rest in wholes for kind in (dtype, "")]


def _number(text: str) -> float | str:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
