"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BELOW = {"vram_ledger.home", "vram_ledger.errors", "vram_ledger.names"}
GROUND = {f"vram_ledger.harness.{name}" for name in ("records", "lines", "events", "splits")}
# Of analysis, from the ground up: a room may import from those before it.
ROOMS = (
    "ground",
    "formula",
    "allocation",
    "serving",
    "evidence",
    "calibrating",
    "derivation",
    "versions",
    "judging",
    "estimating",
    "estimators",
    "refereeing",
    "predicting",
    "messages",
    "public",
    "reporting",
)
TORCH_PACKAGES = {"torch", "transformers", "triton", "fla", "accelerate"}
READS_PLAIN_PICKLES = "analysis/allocation/plain.py"  # it looks nothing up and calls nothing; tests/test_plain.py tries
MAY_IMPORT_TORCH = ("harness/devices/", "harness/runtimes/")
SOURCES = [
    p.relative_to(ROOT).as_posix()
    for folder in ("harness", "analysis", "vram_ledger")
    for p in (ROOT / folder).rglob("*.py")
    if not p.relative_to(ROOT).as_posix().startswith(("vram_ledger/harness", "vram_ledger/analysis"))
]


def imported(source: str) -> set[str]:
    """Every module that a file imports, anywhere in it; what is only for the type checker is left out."""
    tree = ast.parse((ROOT / source).read_text(encoding="utf-8"))
    only_types = {id(n) for i in ast.walk(tree) if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)
                  for n in ast.walk(i)}  # fmt: skip
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("source", SOURCES)
def test_only_devices_and_runtimes_import_torch(source: str) -> None:
    torch = {name for name in imported(source) if name.split(".")[0] in TORCH_PACKAGES}
    assert not torch or source.startswith(MAY_IMPORT_TORCH)


def own(source: str) -> set[str]:
    """The modules of the project that a file imports."""
    return {name for name in imported(source) if name.split(".")[0] == "vram_ledger"}


@pytest.mark.parametrize("source", SOURCES)
def test_the_two_folders_are_imported_by_the_package_s_name(source: str) -> None:
    assert not {name for name in imported(source) if name.split(".")[0] in ("harness", "analysis")}


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("analysis/")])
def test_analysis_knows_only_the_records_and_the_event_log_of_harness(source: str) -> None:
    assert {n for n in own(source) if not n.startswith("vram_ledger.analysis")} <= GROUND | BELOW


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("analysis/") and s.count("/") > 1])
def test_no_import_of_analysis_runs_up(source: str) -> None:
    rooms = ROOMS[: ROOMS.index(source.split("/")[1]) + 1]
    assert {n.split(".")[2] for n in own(source) if n.startswith("vram_ledger.analysis.")} <= set(rooms)


def test_analysis_has_rooms_and_nothing_loose() -> None:
    assert {*ROOMS, "__init__.py"} == {p.name for p in (ROOT / "analysis").iterdir() if p.name != "__pycache__"}


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("harness/")])
def test_harness_knows_neither_analysis_nor_the_commands(source: str) -> None:
    assert {n for n in own(source) if not n.startswith("vram_ledger.harness")} <= BELOW


@pytest.mark.parametrize("module", sorted(GROUND | BELOW))
def test_ground_stands_on_the_standard_library(module: str) -> None:
    source = f"{module.replace('.', '/')}.py".replace("vram_ledger/harness/", "harness/")
    assert {n.split(".")[0] for n in imported(source)} <= sys.stdlib_module_names | {"vram_ledger"}
    assert own(source) <= GROUND | BELOW


def loaded_by(*arguments: str) -> list[str]:
    """Which packages, of those that only some commands need, a command has loaded at its end."""
    program = (
        "import sys; from vram_ledger.cli import run\n"
        f"run({list(arguments)!r})\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'jinja2', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1:]


@pytest.mark.parametrize("arguments", [("--help",), ("predict", "--gpu", "h200"), ("judge", "--help")])
def test_command_starts_without_torch_and_without_what_only_some_commands_need(arguments: tuple[str, ...]) -> None:
    assert ["[]"] == loaded_by(*arguments)


def test_parent_of_a_campaign_never_imports_torch() -> None:
    reachable, waiting = set(), [f"vram_ledger/commands/{name}.py" for name in ("measure", "boundary", "instruments")]
    while waiting:
        source = waiting.pop()
        reachable.add(source)
        names = {f"{name.replace('.', '/')}.py".removeprefix("vram_ledger/") for name in own(source)}
        waiting += [n for n in names if n.startswith("harness/") and (ROOT / n).exists() and n not in reachable]
    assert not {s for s in reachable if s.startswith(MAY_IMPORT_TORCH)}


@pytest.mark.parametrize(
    "source", [*SOURCES, *(p.relative_to(ROOT).as_posix() for p in (ROOT / "tests").rglob("*.py"))]
)
def test_no_code_trusts_remote_code_or_pickles(source: str) -> None:
    text = (ROOT / source).read_text(encoding="utf-8")
    forbidden = ["trust_remote_code=" + "True", "torch." + "load(", "pickle." + "load"]
    if source != READS_PLAIN_PICKLES:
        forbidden += [".Un" + "pickler", "pickle " + "import"]
    assert not [f for f in forbidden if f in text]


def test_every_public_definition_has_a_docstring() -> None:
    bare = []
    for source in SOURCES:
        for node in ast.parse((ROOT / Path(source)).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                bare += [] if ast.get_docstring(node) else [f"{source}: {node.name}"]
    assert not bare
