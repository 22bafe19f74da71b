"""Replays for another program: workloads in on one stream, event logs out on the other, a line of JSON each.

The first line out is ``{"environment": …}``. A request is ``{"log": workload}``, ``{"kernels": workload}`` or
``{"built": workload}``; its answer is ``{"log": packed log}`` (``harness.events.pack``), ``{"kernels": …}``,
``{"built": …}`` (what was asked of the allocator up to the end of the build, ``harness.devices.Device.requests``), or
``{"refused": why}`` where the workload can't be replayed. The next request after a refusal gets a fresh worker.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from vram_ledger.errors import InputError
from vram_ledger.harness.child import START_DEADLINE_S, Child, WorkerFailed
from vram_ledger.harness.grid import build_of, cannot_see
from vram_ledger.harness.models import sha256_of
from vram_ledger.harness.records import Configuration, Environment, RecordError, Workload, decode, encode
from vram_ledger.harness.runner import BUILD_DEADLINE_S, Plan, describe, environment_of

NO_GRID = ""
STATIC_CHUNKS = (
    "a static cache and a chunked prefill together can't be replayed: "
    "the program reads the cache's length off the device to choose its path"
)


class Replays:
    """Event logs of the workloads of one plan. A worker serves as long as the build that it holds is wanted."""

    def __init__(self, plan: Plan, start: Callable[[dict[str, Any]], Child] | None = None) -> None:
        self._plan = plan
        self._start = start or functools.partial(Child.alone, variables=plan.variables)
        self._child: Child | None = None
        self._build: tuple[str, ...] | None = None
        self._environment: Environment | None = None

    def environment(self, configuration: Configuration) -> Environment:
        """What the replays run on; no grid belongs to them."""
        if self._environment is None:
            found = self._worker(configuration).ask({"do": "describe"}, START_DEADLINE_S)
            self._environment = environment_of(
                found,
                gpu_label=f"{self._plan.device}-{self._plan.answer_as.label}",
                weights="random",
                config_sha256=sha256_of(self._plan.config_file),
                grid_sha256=NO_GRID,
                emulation=None if self._plan.emulation is None else self._plan.emulation.digest,
            )
        return self._environment

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        (what, data), *more = request.items() or [("nothing", None)]
        if what not in ("log", "kernels", "built") or more:
            return {"refused": f"unknown request {what!r}; ask for a log, for kernels, or for what was built"}
        try:
            workload = decode(Workload, data, what)
        except RecordError as error:
            return {"refused": str(error)}
        if reason := not_replayable(workload, self._plan.config_file):
            return {"refused": f"{describe(workload)}: {reason}"}
        try:
            if what == "built":
                return {what: self._built(workload.configuration)}
            command = {"do": what, "workload": encode(workload), "packed": True}
            return {what: self._worker(workload.configuration).ask(command, self._plan.grid.deadline_s)}
        except WorkerFailed as failed:
            self.close()
            return {"refused": f"{describe(workload)} can't be replayed: {failed}"}

    def _built(self, configuration: Configuration) -> list[int]:
        """Asked of a worker of its own, whose allocator records from the first request on."""
        child = self._start(self._plan.order(configuration) | {"recorded": True})
        try:
            child.ask({"do": "build"}, BUILD_DEADLINE_S)
            return list(child.ask({"do": "built"}, BUILD_DEADLINE_S))
        finally:
            child.close()

    def close(self) -> None:
        """Ends the worker."""
        if self._child is not None:
            self._child.close()
        self._child = self._build = None

    def _worker(self, configuration: Configuration) -> Child:
        build = build_of(configuration)
        if self._child is None or self._build != build:
            self.close()
            self._child, self._build = self._start(self._plan.order(configuration)), build
            self._child.ask({"do": "build"}, BUILD_DEADLINE_S)
        return self._child


def not_replayable(workload: Workload, config_file: Path) -> str:
    """Why a workload has no replay, known before it is tried; "" if nothing speaks against it."""
    configuration = workload.configuration
    if configuration.model != config_file.stem:
        return f"model {configuration.model!r} is not {config_file.stem!r}, which is being replayed"
    if min(workload.batch, workload.context_tokens) < 1:
        return "batch and context are 1 or more"
    if reason := cannot_see(workload):
        return reason
    chunked = workload.phase == "prefill" and configuration.prefill_chunk_tokens
    return STATIC_CHUNKS if chunked and configuration.cache == "static" else ""


def serve(replays: Replays, first: Configuration, source: TextIO, sink: TextIO) -> None:
    """Answers requests until ``source`` ends; the worker is gone when this returns or raises."""
    try:
        _say(sink, {"environment": encode(replays.environment(first))})
        for line in source:
            _say(sink, replays.answer(_request(line)))
    except WorkerFailed as failed:
        raise InputError(f"the replaying process does not start: {failed}") from failed
    finally:
        replays.close()


def _request(line: str) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except json.JSONDecodeError as error:
        return {f"not JSON: {error.msg}": None}
    return request if isinstance(request, dict) else {"not an object": None}


def _say(sink: TextIO, answer: dict[str, Any]) -> None:
    sink.write(json.dumps(answer, separators=(",", ":")) + "\n")
    sink.flush()
