"""``python -m analysis.refereeing.serve path/file.py:function``: a Python function as a command that answers requests.

The function takes a ``Request`` of analysis/refereeing/breakdown.py and returns a ``Breakdown`` or a dict of its
fields. What it prints goes to stderr.
"""

import contextlib
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vram_ledger.analysis.estimating.breakdown import Breakdown, EstimatorError, Request
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.harness.records import Configuration, Workload, decode


def load(target: str) -> Callable[[Request], Any]:
    """The function of ``path/file.py:function``; :class:`EstimatorError` if there is no such file or function."""
    name, _, function = target.rpartition(":")
    path = Path(name)
    if not path.is_file():
        raise EstimatorError(f"{target}: there is no file {name}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise EstimatorError(f"{target}: {name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # a dataclass in there looks itself up
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise EstimatorError(f"{target}: {name} has no function {function}")
    return found  # type: ignore[no-any-return]


def from_request_line(line: str) -> Request:
    """The request that :func:`analysis.estimating.breakdown.to_request_line` wrote."""
    data = json.loads(line)
    workload = Workload(
        configuration=decode(Configuration, data["configuration"]),
        phase=data["phase"],
        context_tokens=data["context_tokens"],
        batch=data["batch"],
    )
    return Request(
        workload=workload,
        shapes=decode(Shapes, data["shapes"]),
        config=data["config"],
        gpu_label=data["gpu"]["label"],
        gpu_bytes=data["gpu"]["bytes"],
        runtime=data["runtime"],
    )


def main(target: str) -> None:
    """Answers every request on stdin."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        try:
            function = load(target)
        except EstimatorError as error:
            sys.exit(str(error))
        for line in sys.stdin:
            answer = function(from_request_line(line))
            fields = dataclasses.asdict(answer) if isinstance(answer, Breakdown) else answer
            print(json.dumps(fields), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
