"""Asks the harness for event logs: a process of its own, which has torch so that the analysis needs none."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from vram_ledger.errors import InputError
from vram_ledger.harness.events import EventLog, unpack
from vram_ledger.harness.records import Environment, Kernels, Workload, decode, encode
from vram_ledger.home import python_path

EXIT_LINE = re.compile(r"exit \d+: [a-z ]+: ")  # "exit 2: bad input: " and what is wrong with it


def model_name(model: str) -> str:
    """The name of a model that is given by name or by the path of its config."""
    return Path(model).stem if model.endswith(".json") else model


class NotReplayed(InputError):
    """A workload that the harness would not or could not replay; the message is the harness's."""


class Replays(Protocol):
    """Where event logs come from."""

    @property
    def environment(self) -> Environment:
        """What they run on."""

    def log(self, workload: Workload) -> EventLog:
        """The workload's event log; :class:`NotReplayed` if there is none."""

    def kernels(self, workload: Workload) -> Kernels:
        """The implementations that the workload's configuration and phase really run."""

    def built(self, workload: Workload) -> list[int]:
        """What building its model asks of the allocator: see ``harness.devices.Device.requests``."""


class ReplayProcess:
    """``vram-ledger logs`` of one model, as a :class:`Replays`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.environment: Environment = decode(Environment, self._answer()["environment"])

    def log(self, workload: Workload) -> EventLog:
        """See :class:`Replays`."""
        return unpack(self._ask("log", workload))

    def kernels(self, workload: Workload) -> Kernels:
        """See :class:`Replays`."""
        return decode(Kernels, self._ask("kernels", workload))  # type: ignore[no-any-return]

    def built(self, workload: Workload) -> list[int]:
        """See :class:`Replays`."""
        return list(self._ask("built", workload))

    def _ask(self, what: str, workload: Workload) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({what: encode(workload)}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "refused" in answer:
            raise NotReplayed(answer["refused"])
        return answer[what]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotReplayed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        """Why the harness ended: what its exit line says after the code and its kind, or how it died."""
        assert self._process.stderr is not None
        *_, last = ["", *self._process.stderr.read().strip().splitlines()]
        if begins := EXIT_LINE.match(last):
            return last[begins.end() :]
        return f"the harness ended with {self._process.wait()}" + (f": {last}" if last else "")


@contextmanager
def replaying(model: str, card: str, model_class: str) -> Iterator[ReplayProcess]:
    """The harness, ready to run a model (name or path of a config) on an emulated card; ended at the end."""
    if model.endswith(".json") and Path(model).exists():
        model = str(Path(model).resolve())
    command = [
        sys.executable,
        "-m",
        "vram_ledger",
        "logs",
        "--model",
        model,
        "--emulate",
        card,
        "--model-class",
        model_class,
    ]
    pipe = subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": python_path()}
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", env=environment)
    try:
        yield ReplayProcess(process)
    finally:
        # Its worker ends with it: the harness closes it when its standard input ends.
        process.communicate()
