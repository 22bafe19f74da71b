"""The child process: builds one model and measures workloads as it is told, one JSON line in, one out.

Commands are objects with a field "do": "describe", "silicon", "standard", "build", "built", "kernels",
"measure", "fits", "history" or "log". Every
answer is an object with the field "answer", or "out_of_memory" or "error" where the command failed; after either the
parent ends the process, since an exception keeps the tensors of its frames alive. Only "fits" goes on after an
out-of-memory error, if it can undo it: that is then its answer. Whatever libraries print goes to standard error.
"""

import gc
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from vram_ledger.harness.devices import Device
from vram_ledger.harness.devices.choose import OutOfMemoryError, device_of
from vram_ledger.harness.devices.watching import forget_frames, place_of
from vram_ledger.harness.events import EventLog, pack
from vram_ledger.harness.gpus import Gpu
from vram_ledger.harness.measure import Progress, event_log, history, measure, observed_kernels, once
from vram_ledger.harness.nursery import nurse
from vram_ledger.harness.records import (
    Configuration,
    Kernels,
    OutOfMemory,
    Standard,
    Workload,
    decode,
    encode,
)
from vram_ledger.harness.runtimes import transformers as runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a worker is started for. device: its kind. answer_as: the card that the fake device answers for.

    weights: a checkpoint directory, or ``None``. recorded: whether a card's allocator records its history from the
    beginning.
    """

    device: str
    answer_as: Gpu
    configuration: Configuration
    config_file: str
    weights: str | None
    recorded: bool = False


class Worker:
    """Holds the device, and the model once it is built."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._loaded: runtime.Loaded | None = None
        self._kernels: dict[tuple[Configuration, str], Kernels] = {}
        self.progress = Progress("build")
        runtime.choose_kernels(order.configuration)
        self.device: Device = device_of(order.device, order.answer_as, order.recorded)

    def answer(self, command: dict[str, Any]) -> Any:
        """Carries out one command; the exceptions of torch are the caller's."""
        match command["do"]:
            case "describe":
                return {"device": self.device.kind} | encode_fields(self.device.describe()) | runtime.software()
            case "silicon":
                return self.device.silicon()
            case "standard":
                workspace_bytes, context_bytes = self.device.standard()
                return encode(
                    Standard(
                        when=command["when"],
                        probes=self.device.probes(),
                        workspace_bytes=workspace_bytes,
                        context_bytes=context_bytes,
                    )
                )
            case "build":
                return self._build()
            case "measure":
                return self._measure(decode(Workload, command["workload"]))
            case "fits":
                return self._fits(decode(Workload, command["workload"]))
            case "kernels":
                return encode(self._observed(decode(Workload, command["workload"])))
            case "history":
                workload = decode(Workload, command["workload"])
                return history(self._built(), workload)
            case "built":
                return self.device.requests()
            case "log":
                workload = decode(Workload, command["workload"])
                log = self._log(workload, command.get("filled", True), command.get("guessing", False))
                return pack(log) if command.get("packed") else encode(log)
        raise ValueError(f"unknown command {command!r}")

    def _build(self) -> None:
        order = self._order
        weights = None if order.weights is None else Path(order.weights)
        self._loaded = runtime.load(order.configuration, Path(order.config_file), self.device, weights)
        self.device.release()
        gc.freeze()

    def _built(self) -> runtime.Loaded:
        if self._loaded is None:
            raise ValueError("no model is built")
        return self._loaded

    def _observed(self, workload: Workload) -> Kernels:
        key = (workload.configuration, workload.phase)
        if key not in self._kernels:
            self._kernels[key] = observed_kernels(self._built(), workload)
        return self._kernels[key]

    def _measure(self, workload: Workload) -> Any:
        key = (workload.configuration, workload.phase)
        measured = measure(self._built(), workload, self.progress, self._kernels.get(key))
        self._kernels[key] = measured.kernels
        return encode(measured)

    def _fits(self, workload: Workload) -> dict[str, Any]:
        """The outcome, and whether the next question is known to meet the state that this one met."""
        loaded = self._built()
        self.device.release()
        before = self.device.state()
        try:
            fits = once(loaded, workload, self.progress)
            # Without having given back what it had, a run has not come to the end of the addresses that there were.
            return {"outcome": encode(fits), "goes_on": before is not None or fits.retries == 0}
        except OutOfMemoryError as error:
            refused = self.out_of_memory(error)
            forget_frames(error)
        self.device.release()
        return {"outcome": encode(refused), "goes_on": before is not None and self.device.state() == before}

    def _log(self, workload: Workload, filled: bool, guessing: bool) -> EventLog:
        self.device.guessed()  # what went before is not this workload's
        log = event_log(self._built(), workload, filled)
        if (guessed := self.device.guessed()) and not guessing:
            raise ValueError(
                f"the program looks at values of the card at {guessed[0].source}, which an emulated card lacks"
            )
        return log

    def out_of_memory(self, error: BaseException) -> OutOfMemory:
        """The record of the failure that was just caught."""
        asked, free, requested = self.device.last_failure()
        module, source = place_of(error, None if self._loaded is None else self._loaded.model)
        return OutOfMemory(
            during=self.progress.step,
            asked_bytes=asked,
            free_bytes=free,
            requested_bytes=requested,
            module=module,
            source=source,
        )


def encode_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The JSON form of a record's fields."""
    return {name: encode(value) for name, value in fields.items()}


def _commands(source: TextIO) -> Iterator[dict[str, Any]]:
    for line in source:
        yield json.loads(line)


def _serve(worker: Worker, source: TextIO, sink: TextIO) -> None:
    for command in _commands(source):
        try:
            reply = {"answer": worker.answer(command)}
        except OutOfMemoryError as error:
            reply = {"out_of_memory": encode(worker.out_of_memory(error))}
        except (RuntimeError, ValueError, TypeError, NotImplementedError, ImportError, OSError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        sink.write(json.dumps(reply) + "\n")
        sink.flush()


CAREFUL, BARE = "--careful", "--bare"


def main() -> None:
    """Forks a worker for each order that it is given; see :mod:`harness.nursery`."""
    careful, bare = CAREFUL in sys.argv, BARE in sys.argv
    if not bare:
        runtime.import_ahead(for_fla=not careful)
        if not runtime.can_fork():  # once more, with less imported: transformers 5.2 asks for a card when it is
            os.execv(sys.executable, [*sys.orig_argv, BARE if careful else CAREFUL])
    nurse(_work)


def _work(order: dict[str, Any], answers: int) -> None:
    """Serves one order until standard input ends."""
    worker = Worker(decode(Order, order))
    with worker.device.session(), os.fdopen(answers, "w", encoding="utf-8") as sink:
        _serve(worker, sys.stdin, sink)


if __name__ == "__main__":
    main()
