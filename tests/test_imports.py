"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

GROUND = {"harness.records", "harness.events"}
TORCH_PACKAGES = {"torch", "transformers", "triton", "fla", "accelerate"}
MAY_IMPORT_TORCH = ("harness/devices/", "harness/runtimes/")
SOURCES = [p.relative_to(ROOT).as_posix() for folder in ("harness", "analysis") for p in (ROOT / folder).rglob("*.py")]


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


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("analysis/")])
def test_analysis_knows_only_the_records_and_the_event_log_of_harness(source: str) -> None:
    assert {name for name in imported(source) if name.split(".")[0] == "harness"} <= GROUND


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("harness/")])
def test_harness_does_not_know_analysis(source: str) -> None:
    assert not {name for name in imported(source) if name.split(".")[0] == "analysis"}


@pytest.mark.parametrize("module", sorted(GROUND))
def test_ground_stands_on_the_standard_library(module: str) -> None:
    source = f"{module.replace('.', '/')}.py"
    assert {n.split(".")[0] for n in imported(source)} <= sys.stdlib_module_names | {"harness"}


@pytest.mark.parametrize("command", ["harness", "analysis"])
def test_command_starts_without_torch_and_without_what_only_some_commands_need(command: str) -> None:
    program = (
        f"import runpy, sys; sys.argv = ['{command}', '--help']\n"
        f"try:\n    runpy.run_module('{command}', run_name='__main__')\n"
        "finally:\n    print(sorted({'torch', 'transformers', 'matplotlib', 'jinja2', 'pandas'} & set(sys.modules)), "
        "file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert "[]" == done.stderr.strip()


def test_parent_of_a_campaign_never_imports_torch() -> None:
    reachable, waiting = set(), ["harness/__main__.py"]
    while waiting:
        source = waiting.pop()
        reachable.add(source)
        names = {f"{name.replace('.', '/')}.py" for name in imported(source) if name.startswith("harness")}
        waiting += [n for n in names if (ROOT / n).exists() and n not in reachable]
    assert not {s for s in reachable if s.startswith(MAY_IMPORT_TORCH)}


@pytest.mark.parametrize(
    "source", [*SOURCES, *(p.relative_to(ROOT).as_posix() for p in (ROOT / "tests").rglob("*.py"))]
)
def test_no_code_trusts_remote_code_or_pickles(source: str) -> None:
    text = (ROOT / source).read_text(encoding="utf-8")
    forbidden = ("trust_remote_code=" + "True", "import " + "pickle", "torch." + "load(")
    assert not [f for f in forbidden if f in text]


def test_every_public_definition_has_a_docstring() -> None:
    bare = []
    for source in SOURCES:
        for node in ast.parse((ROOT / Path(source)).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                bare += [] if ast.get_docstring(node) else [f"{source}: {node.name}"]
    assert not bare
