"""What the README and the pages of docs/ say is true: every command in them is run, every output in them is what comes.

A block of commands is ``sh``; one whose output is shown is ``console``: ``$ `` begins a command, a line of ``…`` stands
for any lines. ``# exit 1`` after a command is how it ends, else with 0.
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.invoked import Result, invoke
from vram_ledger.from_make import arguments_of

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = ("examples", "results", "configs", "tests")
# Commands that are not run here, by how they begin, and what runs them instead or why nothing can.
ELSEWHERE = {
    "make test": "this is it",
    "make lint": "make test runs it",
    "make measure": "tests/test_emulated_campaign.py, tests/test_kill.py and tests/test_installed.py run campaigns",
    "vram-ledger measure": "the same",
    "make boundary": "tests/test_boundary_on_card.py",
    "make profile": "tests/test_profile.py; it needs a card",
    "make derive ": "tests/test_derive.py; a derivation takes minutes",
    "make oracle": "tests/test_oracle.py; the server is a wheel of its own",
    "make bench": "it takes minutes and says nothing of what is right",
    "vram-ledger emulate": "tests/test_emulated_card.py",
    "vram-ledger log": "tests/test_harness_cli.py",
    "vram-ledger record": "tests/test_history.py",
    "make history FILE=snapshot.pickle": "tests/test_recording.py; the file is the reader's own",
    "pip install": "tests/test_installed.py",
    "git ": "a clone of what these tests are in",
}
WRITES_PUBLISHED = "RESULTS=results"  # tests/test_published.py runs those in a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of a page. shown: the lines of output that the page has, none if it shows none."""

    page: str
    text: str
    exit_code: int
    shown: tuple[str, ...]


def commands() -> list[Command]:
    """Every command of every page."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for kind, block in re.findall(r"^```(sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found += _commands(page.relative_to(ROOT).as_posix(), kind, block)
    return found


def _commands(page: str, kind: str, block: str) -> list[Command]:
    if kind == "sh":
        parts = [(line, ()) for line in block.replace("\\\n", "").splitlines() if line.strip()]
    else:
        split = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
        parts = [(line, tuple(out.splitlines())) for line, out in zip(split[::2], split[1::2], strict=True)]
    return [
        Command(page=page, text=line, exit_code=int((re.findall(r"# exit (\d+)", line) or ["0"])[0]), shown=shown)
        for line, shown in parts
        if not line.startswith("#")
    ]


def is_run(command: Command) -> bool:
    """Whether a command is run here."""
    return not (command.text.startswith(tuple(ELSEWHERE)) or WRITES_PUBLISHED in command.text)


def carried_out(text: str) -> Result:
    """A command of a page, in this process."""
    program, *words = shlex.split(text, comments=True)
    if program == "make":
        variables = dict(word.split("=", 1) for word in words if "=" in word)
        (target,) = (word for word in words if "=" not in word)
        return invoke(*arguments_of(target, list(variables), variables))
    assert "vram-ledger" == program, f"{text!r}: no way to run it is known here"
    return invoke(*words)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the reader's own, from which the repository's are in reach."""
    for name in LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.mark.parametrize("command", [c for c in commands() if is_run(c)], ids=lambda c: f"{c.page}: {c.text}"[:90])
def test_command_of_a_page_does_what_the_page_says(command: Command, folder: Path) -> None:
    done = carried_out(command.text)
    assert command.exit_code == done.exit_code, done.output
    printed = "\n".join(line.rstrip() for line in done.output.splitlines())
    for part in "\n".join(command.shown).split("\n…\n") if command.shown else ():
        assert part.strip("…\n") in printed


def test_pages_link_to_what_is_there() -> None:
    missing = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http") and not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
    assert not missing


def test_every_page_is_named_by_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[2:] if f"(docs/{page.name})" not in readme]


def test_paths_that_pages_name_are_there() -> None:
    missing = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"`((?:harness|analysis|vram_ledger|configs|results|tests|examples|docs)/[\w./-]+)`", text)
        missing += [f"{page.name}: {name}" for name in named if not os.path.exists(ROOT / name)]
    assert not missing
