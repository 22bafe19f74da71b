"""What runs inside a Python process on an emulated card, before the program: only the standard library is imported.

Triton's launches are replaced by nothing (unless ``EMULATED_COMPILE`` is 1, when Triton compiles and tunes and only
the driver's launch does nothing); reads of values that nobody put on the card are noted with the line that asked.
"""

import atexit
import ctypes
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

REPORT = "EMULATED_REPORT"
_TOLD = ctypes.CFUNCTYPE(None, ctypes.c_size_t)
_ASKED = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_size_t)
_FOREIGN = ("torch/", "triton/", "harness/emulation/", "harness/devices/")

_guessed: dict[str, list[int]] = {}
_keep_alive: list[Any] = []


def begin() -> None:
    """Sets everything up; called once, by sitecustomize."""
    library = ctypes.CDLL(os.environ["EMULATED_LIBRARY"])
    told = _TOLD(_note_guess)
    _keep_alive.extend((library, told))
    library.emulated_on_guess(told)
    asked = _ASKED(_block_start)
    _keep_alive.append(asked)
    library.emulated_ask_block(asked)
    library.emulated_handed.argtypes = [ctypes.c_void_p]
    if os.environ.get("EMULATED_COMPILE") != "1":
        _on_import("triton.runtime.jit", lambda module: _replace(module, ("JITFunction",), library))
        _on_import("triton.runtime.autotuner", lambda module: _replace(module, ("Autotuner", "Heuristics"), library))
    if REPORT in os.environ:
        _on_import("torch", _watch_peaks)
        atexit.register(_write_report)


def guesses() -> list[dict[str, Any]]:
    """Every read of an invented value so far: the line that asked, the bytes it got, how often."""
    return [{"source": source, "bytes": size, "count": count} for source, (size, count) in _guessed.items()]


def take_guesses() -> list[dict[str, Any]]:
    """The same, and forgets them."""
    told = guesses()
    _guessed.clear()
    return told


def _note_guess(size: int) -> None:
    source = _source_line()
    known = _guessed.setdefault(source, [0, 0])
    known[0] += size
    known[1] += 1


def _block_start(address: int) -> int:
    """Where the block of PyTorch's allocator that an address lies in begins; 0 if it lies in none."""
    torch = sys.modules["torch"]
    for segment in torch.cuda.memory_snapshot():
        if segment["address"] <= address < segment["address"] + segment["total_size"]:
            starts = [block["address"] for block in segment["blocks"] if block["address"] <= address]
            return max(starts, default=0)
    return 0


def _source_line() -> str:
    """The innermost line that is not PyTorch's, Triton's or ours, as "package/file.py:line"."""
    frame = sys._getframe(1)
    here = ""
    while frame is not None:
        name = frame.f_code.co_filename
        here = f"{_short(name)}:{frame.f_lineno}"
        if not name.startswith("<") and not _short(name).startswith(_FOREIGN) and name != __file__:
            return here
        frame = frame.f_back  # type: ignore[assignment]
    return here


def _short(filename: str) -> str:
    for root in sorted((entry for entry in sys.path if entry), key=len, reverse=True):
        if filename.startswith(root.rstrip("/") + "/"):
            return filename[len(root.rstrip("/")) + 1 :]
    return filename


# ---- imports of others, seen as they happen ----


class _Watcher(importlib.abc.MetaPathFinder):
    """Calls ``then`` with a module right after it was imported for the first time."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, with a loader that tells us."""
        if name != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def and_tell(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    self._then(module)

            spec.loader.exec_module = and_tell  # type: ignore[method-assign]
        return spec


def _on_import(name: str, then: Callable[[ModuleType], None]) -> None:
    sys.meta_path.insert(0, _Watcher(name, then))


def _replace(module: ModuleType, names: tuple[str, ...], library: Any) -> None:
    def hand_on(value: Any) -> None:
        if hasattr(value, "data_ptr"):
            library.emulated_handed(value.data_ptr())
        elif isinstance(value, tuple | list):
            for part in value:
                hand_on(part)
        elif hasattr(value, "base"):  # a tensor descriptor
            hand_on(value.base)

    def launch(self: Any, *args: Any, **kwargs: Any) -> None:
        hand_on((*args, *kwargs.values()))

    for name in names:
        getattr(module, name).run = launch


# ---- the report of a whole program ----

_highest: dict[int, dict[str, int]] = {}
_COUNTERS = {"requested": "requested_bytes", "allocated": "allocated_bytes", "reserved": "reserved_bytes"}


def _watch_peaks(torch: ModuleType) -> None:
    """The program may reset its peaks; what they were until then is kept."""
    for name in ("_cuda_resetPeakMemoryStats", "_accelerator_resetPeakStats"):
        if reset := getattr(torch._C, name, None):
            setattr(torch._C, name, _keeping(torch, reset))


def _keeping(torch: ModuleType, reset: Callable[..., None]) -> Callable[..., None]:
    def and_keep(*device: int) -> None:
        _keep_peaks(torch)
        reset(*device)

    return and_keep


def _keep_peaks(torch: Any) -> None:
    if not torch.cuda.is_initialized():
        return
    for device in range(torch.cuda.device_count()):
        stats = torch.cuda.memory_stats(device)
        known = _highest.setdefault(device, dict.fromkeys(_COUNTERS, 0))
        for counter, name in _COUNTERS.items():
            known[counter] = max(known[counter], int(stats.get(f"{name}.all.peak", 0)))


def _write_report() -> None:
    torch = sys.modules.get("torch")
    if torch is None:
        return
    _keep_peaks(torch)
    told = {
        "peaks": [
            {
                "process": os.getpid(),
                "card": device,
                "name": torch.cuda.get_device_name(device),
                **{f"{counter}_bytes": size for counter, size in peaks.items()},
                "out_of_memory": int(torch.cuda.memory_stats(device).get("num_ooms", 0)),
            }
            for device, peaks in sorted(_highest.items())
            if peaks["reserved"]
        ],
        "guessed": guesses(),
    }
    path = Path(os.environ[REPORT]) / f"{os.getpid()}.json"
    path.write_text(json.dumps(told), encoding="utf-8")
