"""A Python function as a command that answers requests; ``command.python_function`` starts it.

The function takes the request of docs/estimators.md and returns a dict of a breakdown's fields, a ``Breakdown``, or
``None`` to decline. What it prints goes to stderr.
"""

import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from vram_ledger.analysis.estimating.breakdown import EstimatorError
from vram_ledger.names import nearest


class Asked(dict[str, Any]):
    """A request, or an object in one: a dict whose fields are attributes, too, ``r["batch"]`` and ``r.batch``."""

    def __getattr__(self, name: str) -> Any:
        return self[name] if name in self else self._lacks(AttributeError, name)

    def __missing__(self, name: str) -> NoReturn:
        self._lacks(KeyError, name)

    def _lacks(self, error: type[Exception], name: str) -> NoReturn:
        raise error(f"no {name!r} here{nearest(name, self)}; there are {', '.join(self)}")


def load(target: str) -> Callable[[Asked], Any]:
    """The function of ``path/file.py:function``; :class:`EstimatorError` if there is no such file or function.

    The file's folder is where its own imports are looked for first, as for a script.
    """
    name, _, function = target.rpartition(":")
    spec = importlib.util.spec_from_file_location("vram_ledger_estimator", name)
    if spec is None or spec.loader is None:
        raise EstimatorError(f"{target}: {name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass in there looks itself up
    sys.path.insert(0, str(Path(name).resolve().parent))
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise EstimatorError(f"{name} has no function {function}; there are: {', '.join(known) or 'none'}")
    return found  # type: ignore[no-any-return]


def main(target: str) -> None:
    """Answers every request on stdin."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        function = load(target)
    except EstimatorError as error:
        sys.exit(str(error))
    for line in sys.stdin:
        answer = function(json.loads(line, object_hook=Asked))
        if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
            answer = dataclasses.asdict(answer)
        print(json.dumps(answer, default=float), file=answers, flush=True)  # float: numpy's numbers, and fractions
