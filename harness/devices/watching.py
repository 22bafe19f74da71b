"""Where a program is: the module that runs, and the line of source."""

import sys
import traceback
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Self

import torch

_OWN_FOLDERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_PACKAGE_ROOTS = tuple(sorted({str(Path(p).resolve()) for p in sys.path if p}, key=len, reverse=True))


class Modules:
    """Follows the forward calls of a model's modules, as long as it is entered."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._names = _names_of(model)
        self._path: list[str] = []
        self._hooks: list[Any] = []

    @property
    def current(self) -> str:
        """Path of the module that runs; empty outside all of them."""
        return self._path[-1] if self._path else ""

    def __enter__(self) -> Self:
        hooks = torch.nn.modules.module
        self._hooks = [
            hooks.register_module_forward_pre_hook(self._entering),
            hooks.register_module_forward_hook(self._leaving, always_call=True),
        ]
        return self

    def __exit__(self, *exc: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def _entering(self, module: torch.nn.Module, args: Any) -> None:
        # An activation shared by all layers is nobody's child: it runs where it is called.
        name = self._names.get(id(module))
        if name is None:
            name = f"{self._path[-1]}.{type(module).__name__}" if self._path else type(module).__name__
        self._path.append(name)

    def _leaving(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        self._path.pop()


def source_line() -> str:
    """The innermost line outside torch and this folder, as "package/file.py:line"."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        if name := _shown(frame.f_code.co_filename):
            return _own_place(name, frame) or f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def place_of(error: BaseException, model: torch.nn.Module | None) -> tuple[str, str]:
    """Where an error came from: the path of the innermost module of the model that ran, and the line as above."""
    # Not the frame that caught it: a look at the locals of a frame that runs would keep the error, and all it holds.
    below = error.__traceback__ and error.__traceback__.tb_next
    innermost_first = list(traceback.walk_tb(below))[::-1]
    names = {} if model is None else _names_of(model)
    selves = (id(frame.f_locals.get("self")) for frame, _ in innermost_first)
    module = next((names[own] for own in selves if own in names), "")
    for frame, line in innermost_first:
        if name := _shown(frame.f_code.co_filename):
            return module, _own_place(name, frame) or f"{name}:{line}"
    return module, ""


def forget_frames(error: BaseException | None) -> None:
    """Lets go of what the frames that an error went through hold, those of the errors before it included."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _own_place(name: str, frame: Any) -> str:
    """Of the project's own source the function, whose name outlives the next edit of the file as its line does not."""
    inside = name.removeprefix("vram_ledger/")
    return f"{inside}:{frame.f_code.co_name}" if inside != name and inside.startswith("harness/") else ""


def shown_frames(frames: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Recorded frames, innermost first, without torch's and ours; files as "package/file.py"."""
    return [frame | {"filename": name} for frame in frames if (name := _shown(frame["filename"]))]


@cache
def _shown(filename: str) -> str:
    """The file as "package/file.py"; empty for torch's and ours."""
    if filename.startswith(_OWN_FOLDERS) or filename.startswith("<"):
        return ""
    for root in _PACKAGE_ROOTS:
        if filename.startswith(root + "/"):
            return filename[len(root) + 1 :]
    return filename.rsplit("/", 1)[-1]


@lru_cache(maxsize=1)
def _names_of(model: torch.nn.Module) -> dict[int, str]:
    return {id(module): name for name, module in model.named_modules()}
