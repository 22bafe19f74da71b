"""Arithmetic that a file of figures may ask for: sizes of a config, numbers, and what runtimes make of them.

Not Python: names, numbers, + - * / // % **, and calls of the functions below. What is given as printed stands for all
values that are printed so, and then the answer is a range, too.
"""

import ast
import dataclasses
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from vram_ledger.analysis.formula.config import MOST, read_config
from vram_ledger.analysis.formula.shapes import Shapes, VisionShapes, checkpoint_bytes, mtp_parameters, weights_bytes
from vram_ledger.analysis.formula.terms import (
    conv_bytes_per_sequence,
    kv_bytes_per_token,
    recurrent_bytes_per_sequence,
)
from vram_ledger.analysis.ground.printed import FigureError, Range, read_printed
from vram_ledger.analysis.public import vllm

Number = int | Fraction
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: Fraction(a) / Fraction(b),
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
PLAIN: dict[str, Callable[..., Number]] = {"floor": math.floor, "ceil": math.ceil, "min": min, "max": max}
OF_SHAPES: dict[str, Callable[..., Number]] = {
    "vllm_block_tokens": vllm.block_tokens,
    "vllm_block": vllm.block_bytes,
    "vllm_request_blocks": vllm.request_blocks,
    "vllm_pool_tokens": vllm.pool_tokens,
    "vllm_weights": vllm.weights,
    "vllm_state_page": vllm.state_page_bytes,
}
OF_NUMBERS: dict[str, Callable[..., Number]] = {"vllm_request_tokens": vllm.request_tokens}
FIELDS = {f.name: f.type for f in dataclasses.fields(Shapes)}
SIZES = {*FIELDS, *(f"vision_{f.name}" for f in dataclasses.fields(VisionShapes))} - {"vision"}
MOST_POWER, MOST_GIVEN, MOST_LENGTH, MOST_VALUE = 64, 6, 1_000, 10**18
MOST_BITS = 4096  # of a number on the way
MOST_ARGUMENT, FROM_ONE = 10**9, ("kv", "parts")  # of what vLLM is asked; these from 1, the others from 0


def sizes_of(path: Path) -> tuple[Shapes, dict[str, Number]]:
    """A config's shapes, and what an expression may call by name."""
    config = read_config(path)
    shapes = config.shapes
    named: dict[str, Number] = {
        name: int(getattr(shapes, name)) for name in FIELDS if isinstance(getattr(shapes, name), int)
    }
    tower: dict[str, Number] = dataclasses.asdict(shapes.vision) if shapes.vision else {}
    own: dict[str, Number] = {
        "layers": shapes.n_full + shapes.n_linear,
        "positions": config.most_context_tokens or 0,
        "conv_channels": shapes.conv_channels,
        "weights_text": weights_bytes(shapes, "Qwen3_5ForCausalLM"),
        "weights_default": weights_bytes(shapes, "Qwen3_5ForConditionalGeneration"),
        "weights_mtp": 2 * mtp_parameters(shapes),
        "checkpoint": checkpoint_bytes(shapes),
        "kv_token": kv_bytes_per_token(shapes),
        "state": recurrent_bytes_per_sequence(shapes),
        "conv": conv_bytes_per_sequence(shapes),
    }
    return shapes, named | {f"vision_{name}": size for name, size in tower.items()} | own


def shapes_of(sizes: Mapping[str, Number]) -> Shapes:
    """Shapes that have only the sizes which are given, 0 for the others; enough for what depends on those alone."""
    for name, size in sizes.items():
        if name in SIZES and not 0 <= size <= MOST:
            raise FigureError(f"sizes.{name} is from 0 to {MOST:,}, got {size}")
    none: dict[str, Any] = {n: False if t in (bool, "bool") else 0 for n, t in FIELDS.items()} | {"vision": None}
    tower = {f.name: sizes[f"vision_{f.name}"] for f in dataclasses.fields(VisionShapes) if f"vision_{f.name}" in sizes}
    if len(tower) == len(dataclasses.fields(VisionShapes)):
        none["vision"] = VisionShapes(**{name: int(size) for name, size in tower.items()})
    return Shapes(
        **none | {name: type(none[name])(size) for name, size in sizes.items() if name in none and name != "vision"}
    )


def range_of(expression: str, shapes: Shapes, sizes: Mapping[str, Number], given: Mapping[str, str]) -> Range:
    """What an expression comes to, over all values that what is given as printed can have."""
    if len(expression) > MOST_LENGTH or len(given) > MOST_GIVEN:
        raise FigureError(f"an expression of more than {MOST_LENGTH} characters, or with more than {MOST_GIVEN} given")
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FigureError(f"{expression!r} is no expression ({error})") from error
    ends = {name: _ends(text) for name, text in given.items()}
    try:
        found = [
            _value(tree, shapes, {**sizes, **dict(zip(ends, chosen, strict=True))})
            for chosen in itertools.product(*ends.values())
        ]
    except RecursionError as error:
        raise FigureError(f"{expression[:40]!r}… is nested too deeply") from error
    if max(found) > MOST_VALUE or min(found) < -MOST_VALUE:
        raise FigureError(f"{expression!r} comes to more than {MOST_VALUE:,}")
    return Range(least=Fraction(min(found)), most=Fraction(max(found)))


def called(expression: str) -> set[str]:
    """The functions that an expression calls."""
    calls = [node.func for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Call)]
    return {function.id for function in calls if isinstance(function, ast.Name)}


def _ends(text: str) -> tuple[Number, ...]:
    own = read_printed(text).range
    return tuple(dict.fromkeys((own.least, own.most)))


def _value(node: ast.expr, shapes: Shapes, names: Mapping[str, Number]) -> Number:
    match node:
        case ast.Constant(value=bool()):
            raise FigureError("an expression has numbers, not True or False")
        case ast.Constant(value=int() | float() as number):
            if not math.isfinite(number):
                raise FigureError("a number that is too large")
            return number if isinstance(number, int) else Fraction(str(number))
        case ast.Name(id=name):
            if name not in names:
                raise FigureError(f"no size is called {name!r}; there are {', '.join(sorted(names)) or 'none'}")
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, shapes, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _combined(type(op), _value(left, shapes, names), _value(right, shapes, names))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if all(k.arg for k in keywords):
            own = [_value(a, shapes, names) for a in args]
            by_name = {str(k.arg): _value(k.value, shapes, names) for k in keywords}
            return _call(name, shapes, own, by_name)
    raise FigureError(f"{ast.unparse(node)!r}: only sizes, numbers, + - * / // % ** and calls of {_functions()}")


def _combined(op: type[ast.operator], left: Number, right: Number) -> Number:
    if op is ast.Pow and (not 0 <= right <= MOST_POWER or right % 1):
        raise FigureError(f"a power of {right}; whole ones from 0 to {MOST_POWER} are allowed")
    try:
        found: Number = OPERATORS[op](left, right)
    except ZeroDivisionError as error:
        raise FigureError("a division by 0: a size that it needs is not given") from error
    if max(found.numerator.bit_length(), found.denominator.bit_length()) > MOST_BITS:
        raise FigureError(f"a number on the way has more than {MOST_BITS:,} bits")
    return found


def _call(name: str, shapes: Shapes, own: list[Number], by_name: dict[str, Number]) -> Number:
    function = PLAIN.get(name) or OF_NUMBERS.get(name) or OF_SHAPES.get(name)
    if function is None:
        raise FigureError(f"no function is called {name!r}; there are {_functions()}")
    first = [shapes] if name in OF_SHAPES else []
    if name not in PLAIN:
        own, by_name = [math.floor(v) for v in own], {k: math.floor(v) for k, v in by_name.items()}
        try:
            bound = inspect.signature(function).bind(*first, *own, **by_name).arguments
        except TypeError as error:
            raise FigureError(f"{name}: {error}; it is {name}{_signature(name, function)}") from error
        for key, value in list(bound.items())[len(first) :]:
            if not (key in FROM_ONE) <= value <= MOST_ARGUMENT:
                raise FigureError(f"{name}: {key} is from {int(key in FROM_ONE)} to {MOST_ARGUMENT:,}, got {value}")
    try:
        return function(*first, *own, **by_name)
    except ZeroDivisionError as error:
        raise FigureError(f"{name} needs a size that is not given") from error
    except TypeError as error:
        raise FigureError(f"{name}: {error}") from error


def _signature(name: str, function: Callable[..., Number]) -> str:
    parameters = list(inspect.signature(function).parameters.values())[1 if name in OF_SHAPES else 0 :]
    return f"({', '.join(str(p).replace(': int', '').replace(' = ', '=') for p in parameters)})"


def _functions() -> str:
    return ", ".join([*PLAIN, *OF_NUMBERS, *OF_SHAPES])
