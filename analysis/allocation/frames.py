"""Which line of a program a recorded stack stands for."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

TORCH_FILE = re.compile(
    r"(?:^|.*(?:site|dist)-packages/)torch/.*|.*/torch/(?:nn|cuda|utils|autograd|optim|_\w+)(?:/|\.).*"
)
NO_SOURCE = re.compile(r"<(?:frozen|string|eval_with_key|__array_function__).*")
BACKWARD, NO_PYTHON = "(backward, which no Python line calls)", "(no Python frame)"


def source_of(frames: Any) -> str:
    """The innermost Python frame outside torch, else of torch, as "folder/file.py:line function"; "" of no frame.

    A backward runs in a thread of torch's own, which no Python line has called.
    """
    if not isinstance(frames, list) or not frames:
        return ""
    inside = ""
    for frame in frames:
        if isinstance(frame, dict) and isinstance(file := frame.get("filename"), str):
            kind = _kind(file)
            if kind == "other":
                return _frame_text(file, frame)
            if kind == "torch" and not inside:
                inside = _frame_text(file, frame)
    if inside:
        return inside
    names = (frame.get("name") for frame in frames if isinstance(frame, dict))
    return BACKWARD if any(isinstance(n, str) and "torch::autograd::Engine" in n for n in names) else NO_PYTHON


@cache
def _kind(file: str) -> Literal["other", "torch", "none"]:
    """What a file is: Python's, torch's own Python, or neither (C++, or made on the fly)."""
    file = file.replace("\\", "/")
    if not file.endswith(".py") and not (file.startswith("<") and not NO_SOURCE.fullmatch(file)):
        return "none"
    return "torch" if TORCH_FILE.fullmatch(file) else "other"


def _frame_text(file: str, frame: Mapping[str, Any]) -> str:
    short = "/".join(file.replace("\\", "/").split("/")[-2:])
    return f"{short}:{frame.get('line')} {frame.get('name')}"
