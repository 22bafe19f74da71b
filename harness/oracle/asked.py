"""From what a person asks of a server to its start on an emulated card, and to the record of that."""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from vram_ledger.errors import InputError, WrongEnvironment
from vram_ledger.harness.asked import one_card
from vram_ledger.harness.emulation.elsewhere import stubs_of
from vram_ledger.harness.emulation.profile import Emulation, Profile, emulation_of, profile_of
from vram_ledger.harness.emulation.served import for_servers
from vram_ledger.harness.emulation.wheel import NoEmulation
from vram_ledger.harness.gpus import Gpu, read_gpus
from vram_ledger.harness.interpreter import told_by
from vram_ledger.harness.models import model_file, sha256_of
from vram_ledger.harness.oracle.folder import write_model
from vram_ledger.harness.oracle.process import answer_of
from vram_ledger.harness.oracle.record import Start, file_of, relevant, store
from vram_ledger.home import GPUS, MODELS

RUNTIMES = ("vllm",)
VARIANTS = ("text", "default")
TRIED = "0.20.1"
EAGER_DEADLINE_S, GRAPHS_DEADLINE_S = 900, 2400  # for each start
PACKAGES = ("vllm", "torch", "triton", "transformers", "flashinfer-python", "numpy")
# No hub, no reports of use, the engine in the process that is asked. DeepGEMM's kernels are for FP8 and come in the
# wheel for one version of Python only.
VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_DEEP_GEMM": "0",
}
_VERSIONS = """
import importlib.metadata as m, json, sys
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
print(json.dumps({n: version(n) for n in sys.argv[1:]} | {"python": sys.version.split()[0]}))
"""
INSIDE = Path(__file__).parent / "inside_vllm.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a server is to be asked for its plan. context_tokens, utilization: 0: the server's own.

    graphs: with compilation and CUDA graphs, as it starts by itself; else eager. deadline_s: 0: as is usual.
    """

    card: Gpu
    config_file: Path
    variant: str
    context_tokens: int
    utilization: float
    graphs: bool
    interpreter: str
    versions: dict[str, str]
    deadline_s: int


def question(
    runtime: str,
    model: str,
    emulate: str,
    variant: str,
    context_tokens: int,
    utilization: str,
    interpreter: str,
    graphs: bool = False,
) -> Question:
    """Everything that was asked for, checked before a server is started."""
    if runtime not in RUNTIMES:
        raise InputError(f"RUNTIME is {' or '.join(RUNTIMES)}: no other server is started here; got {runtime!r}")
    if variant not in VARIANTS:
        raise InputError(f"VARIANT is text (without the vision tower) or default; got {variant!r}")
    card = one_card(read_gpus(GPUS), "EMULATE", emulate)
    config_file = model_file(MODELS, model)
    python = _absolute(interpreter) if interpreter else sys.executable
    return Question(
        card=card,
        config_file=config_file,
        variant=variant,
        context_tokens=context_tokens,
        utilization=_share(utilization),
        graphs=graphs,
        interpreter=python,
        versions=_versions(runtime, python),
        deadline_s=GRAPHS_DEADLINE_S if graphs else EAGER_DEADLINE_S,
    )


def _absolute(interpreter: str) -> str:
    """Its path from anywhere, links as they are: a link is what an environment's python is."""
    found = shutil.which(os.path.expanduser(interpreter))
    if found is None:
        raise InputError(f"INTERPRETER={interpreter} is no program")
    return os.path.abspath(found)


def _share(text: str) -> float:
    """A share of the card, above 0 and at most 1; 0 where none was given."""
    if not text:
        return 0.0
    value = float(text) if re.fullmatch(r"\d?(\.\d{1,17})?", text, re.ASCII) else 0.0
    if not 0 < value <= 1:
        raise InputError(
            f"UTILIZATION is the share of the card that the server may take, such as 0.9; got {text[:40]!r}"
        )
    return value


def _versions(runtime: str, interpreter: str) -> dict[str, str]:
    """The packages of the interpreter; :class:`WrongEnvironment` if the server is not among them."""
    found: dict[str, str | None] = told_by(interpreter, _VERSIONS, *PACKAGES)
    if found[runtime] is None:
        raise WrongEnvironment(
            f"{interpreter} has no {runtime}; {interpreter} -m pip install {runtime}=={TRIED} puts it there (9 GB), in "
            "an environment of its own best: INTERPRETER=path of its python"
        )
    return {name: version for name, version in found.items() if version is not None}


def ask(question: Question, results: Path, tell: Callable[[str], None]) -> Iterator[tuple[Path, Start]]:
    """Starts the server and stores what it planned; where it compiles, once more with what it had compiled.

    ``tell`` hears the lines of its log.
    """
    profile = profile_of(question.card)
    try:
        stubs = stubs_of(question.interpreter)
        emulation = for_servers(emulation_of((profile,), stubs=stubs), stubs)
    except NoEmulation as missing:
        raise WrongEnvironment(f"EMULATE={question.card.label}: {missing}") from missing
    options = _options(question)
    with tempfile.TemporaryDirectory(prefix="vram-ledger-") as folder:
        model = Path(folder) / question.config_file.stem
        write_model(model, question.config_file)
        order = Path(folder) / "order.json"
        order.write_text(json.dumps(options | {"model": str(model)}), encoding="utf-8")
        command = [question.interpreter, str(INSIDE), str(order)]
        cache = {"VLLM_CACHE_ROOT": f"{folder}/cache"} if question.graphs else {}
        for starts in (1, 2) if question.graphs else (1,):
            begun = monotonic()
            answer, log = answer_of(command, emulation.variables | VARIABLES | cache, question.deadline_s, tell)
            log = log.replace(f"{folder}/", "")
            answer = json.loads(json.dumps(answer).replace(f"{folder}/", ""))
            start = _start(question, profile, emulation, options, answer, log, starts, round(monotonic() - begun))
            path = file_of(results, start)
            store(path, start)
            yield path, start


def _options(question: Question) -> dict[str, Any]:
    """What the server is given; everything else is its own default."""
    options: dict[str, Any] = {"load_format": "dummy", "enforce_eager": not question.graphs}
    if question.variant == "text":
        options |= {"language_model_only": True, "skip_tokenizer_init": True}
    if question.context_tokens:
        options["max_model_len"] = question.context_tokens
    if question.utilization:
        options["gpu_memory_utilization"] = question.utilization
    return options


def _start(
    question: Question,
    profile: Profile,
    emulation: Emulation,
    options: dict[str, Any],
    answer: dict[str, Any],
    log: str,
    starts: int,
    seconds: int,
) -> Start:
    return Start(
        runtime="vllm",
        versions=question.versions,
        card={
            "label": question.card.label,
            "name": profile.name,
            "capability": profile.capability,
            "total_bytes": profile.total_bytes,
            "outside_bytes": profile.outside_bytes,
        },
        emulation=emulation.digest,
        model=question.config_file.stem,
        config_sha256=sha256_of(question.config_file),
        variant=question.variant,
        options=options,
        variables=VARIABLES,
        planned=answer["planned"],
        replaced=tuple(answer["replaced"]),
        guessed=tuple(answer["guessed"]),
        log=relevant(log),
        starts=starts,
        seconds=seconds,
    )
