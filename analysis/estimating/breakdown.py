"""What an estimator is asked and what it answers: a request, and a breakdown in bytes.

Both travel as one line of JSON to and from an estimator that is another program. Nothing here compares.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vram_ledger.analysis.derivation.derived_files import configuration_of
from vram_ledger.analysis.formula.shapes import (
    Shapes,
    checkpoint_bytes,
    mtp_parameters,
    text_parameters,
    vision_parameters,
)
from vram_ledger.analysis.formula.terms import ELEMENT_BYTES
from vram_ledger.errors import InputError
from vram_ledger.harness.records import Phase, Workload, encode

Quantity = Literal["requested", "allocated", "reserved", "process", "device"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
ROUNDING_BYTES = 16  # parts that were each rounded to whole bytes may add up to a little more than their total
MOST_BYTES = 10**24  # beyond any memory, and still a number that can be divided


class EstimatorError(InputError):
    """An estimator that can't be used, or an answer that is none; the message names the estimator or the request."""


class Declined(EstimatorError):
    """An estimator that has no answer to this request, and says so; it is held against the other points alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to an estimator: how many bytes does this workload take at its peak?

    config: the model's ``config.json`` by path. gpu_label: a section of ``configs/gpus.toml``, "" if none is meant;
    gpu_bytes: its memory. runtime: what runs the model.
    """

    workload: Workload
    shapes: Shapes
    config: str
    gpu_label: str = ""
    gpu_bytes: int | None = None
    runtime: str = "transformers"

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.workload.configuration.model

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.workload.batch

    @property
    def context_tokens(self) -> int:
        """Tokens of each sequence: the prompt's of a prefill, the cached ones of a decode."""
        return self.workload.context_tokens

    @property
    def element_bytes(self) -> int:
        """Bytes of an element of weights and cache."""
        return ELEMENT_BYTES.get(self.workload.configuration.dtype, 1)

    @property
    def text(self) -> str:
        """The request in words, as every error names it."""
        w = self.workload
        return f"{self.model}, {w.phase}, B={w.batch}, L={w.context_tokens:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """An answer, in bytes. A term that the estimator does not have is ``None``, which is not the same as 0.

    predicts: the measured quantity that the total claims to be. state_bytes: recurrent and conv state as a whole,
    where the estimator does not tell them apart. activations: temporaries of the forward pass. overhead: whatever
    is added for the rest, such as fragmentation, context, safety. total_bytes: may be more than its terms.
    """

    predicts: Quantity
    total_bytes: int
    weights_bytes: int
    kv_cache_bytes: int | None = None
    recurrent_state_bytes: int | None = None
    conv_state_bytes: int | None = None
    state_bytes: int | None = None
    activations_bytes: int | None = None
    overhead_bytes: int | None = None


TERM_FIELDS = tuple(f.name for f in dataclasses.fields(Breakdown) if f.name not in ("predicts", "total_bytes"))
FIELDS = tuple(f.name for f in dataclasses.fields(Breakdown))
REQUIRED = tuple(f.name for f in dataclasses.fields(Breakdown) if f.default is dataclasses.MISSING)

Estimator = Callable[[Request], Breakdown]


def added_up(predicts: Quantity, **terms: float) -> Breakdown:
    """The breakdown whose total is the sum of its terms, each rounded to a byte: ``added_up("process", weights=…)``."""
    whole = {f"{name}_bytes": round(value) for name, value in terms.items()}
    return Breakdown(predicts=predicts, total_bytes=sum(whole.values()), **whole)


def asked_fields(request: Request) -> dict[str, Any]:
    """The request as every form of estimator gets it; docs/estimators.md says what each field is."""
    shapes, workload = request.shapes, request.workload
    return {
        "model": request.model,
        "config": request.config,
        "phase": workload.phase,
        "context_tokens": workload.context_tokens,
        "batch": workload.batch,
        "dtype": workload.configuration.dtype,
        "element_bytes": request.element_bytes,
        "runtime": request.runtime,
        "gpu": {"label": request.gpu_label, "bytes": request.gpu_bytes},
        "configuration": encode(workload.configuration),
        "shapes": encode(shapes) | {"conv_channels": shapes.conv_channels},
        "parameters": text_parameters(shapes) + mtp_parameters(shapes) + vision_parameters(shapes),
        "checkpoint_bytes": checkpoint_bytes(shapes),
    }


def from_answer(answer: str, where: str) -> Breakdown:
    """The breakdown in one line of JSON; :class:`EstimatorError` starts with ``where``, which names the request.

    :class:`Declined` if the answer is ``null``.
    """
    try:
        data = json.loads(answer)
    except json.JSONDecodeError as error:
        raise EstimatorError(f"{where}: not JSON ({error.msg} at column {error.colno}): {_short(answer)}") from error
    except (RecursionError, ValueError) as error:  # too deep, or a number of thousands of digits
        raise EstimatorError(f"{where}: no JSON of an answer ({error}): {_short(answer)}") from error
    if data is None:
        raise Declined(f"{where}: declined")
    if not isinstance(data, dict):
        raise EstimatorError(f"{where}: expected an object of bytes by term, got {_short(answer)}")
    return checked(data, where)


def checked(data: Mapping[str, Any], where: str) -> Breakdown:
    """The breakdown with these fields; :class:`EstimatorError` names each that is missing, unknown or no bytes.

    A field that is ``null`` is one that the estimator does not have. Fractions of a byte are rounded.
    """
    given = {name: value for name, value in data.items() if value is not None}
    if missing := [name for name in REQUIRED if name not in given]:
        raise EstimatorError(f"{where}: missing {', '.join(missing)}; the answer has {', '.join(given) or 'nothing'}")
    if unknown := [name for name in given if name not in FIELDS]:
        raise EstimatorError(f"{where}: unknown {', '.join(unknown)}; the fields are {', '.join(FIELDS)}")
    if given["predicts"] not in QUANTITIES:
        raise EstimatorError(f"{where}: predicts {_short(given['predicts'])} is not one of {', '.join(QUANTITIES)}")
    numbers = {name: _bytes(value, name, where) for name, value in given.items() if name != "predicts"}
    breakdown = Breakdown(predicts=given["predicts"], **numbers)
    if breakdown.state_bytes is not None and {"recurrent_state_bytes", "conv_state_bytes"} & set(numbers):
        raise EstimatorError(f"{where}: state_bytes is the whole of the two states; give the whole or the two")
    terms = sum(numbers[name] for name in TERM_FIELDS if name in numbers)
    if terms > breakdown.total_bytes + ROUNDING_BYTES:
        raise EstimatorError(
            f"{where}: the terms add up to {terms:,} B, more than the total of {numbers['total_bytes']:,} B"
        )
    return breakdown


def _bytes(value: object, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EstimatorError(f"{where}: {name} must be a number of bytes, got {_short(value)}")
    if not 0 <= value < MOST_BYTES:  # NaN is not in there either
        raise EstimatorError(f"{where}: {name} must be 0 bytes or more, got {_short(value)}")
    return round(value)


def _short(value: object) -> str:
    """What was given, as it can be quoted in a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def asked(
    config: str, shapes: Shapes, *, model: str, phase: Phase = "prefill", context_tokens: int, batch: int = 1
) -> Request:
    """A request for the model as published: bf16, the whole checkpoint's class, single shot."""
    configuration = configuration_of(model, "default")
    workload = Workload(configuration=configuration, phase=phase, context_tokens=context_tokens, batch=batch)
    return Request(workload=workload, shapes=shapes, config=config)
