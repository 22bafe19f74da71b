"""Releases in folders of their own: what goes on the path, and what is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vram_ledger.errors import Fault, InputError
from vram_ledger.harness.emulation.profile import Emulation
from vram_ledger.harness.versions import overlays, running
from vram_ledger.harness.versions.overlays import NotOverlaid, checked, needs, offered, overlaid
from vram_ledger.harness.versions.running import under


def unpacked(folder: Path, name: str, version: str, *requires: str) -> Path:
    """A folder such as pip makes of a distribution."""
    path = folder / f"{name}-{version}"
    info = path / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires)]), encoding="utf-8")
    (path / f"{name.replace('-', '_')}.py").write_text(f"version = {version!r}\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: str) -> str:
        raise AssertionError(f"pip {arguments}")

    monkeypatch.setattr(overlays, "_pip", refuse)


def test_a_release_comes_with_what_it_needs_and_the_environment_has_not(tmp_path: Path) -> None:
    one = unpacked(tmp_path, "vl-one", "1.2", "vl-two<3,>=2", "packaging>=20", 'vl-never; extra == "x"')
    two = unpacked(tmp_path, "vl-two", "2.5", "vl-three")
    three = unpacked(tmp_path, "vl-three", "1.0", "vl-one==1.2")
    unpacked(tmp_path, "vl-two", "3.1")
    assert (one, two, three) == overlaid({"vl-one": "1.2"}, tmp_path)


def test_the_newest_folder_that_will_do_is_taken(tmp_path: Path) -> None:
    unpacked(tmp_path, "vl-two", "2.9")
    newest = unpacked(tmp_path, "vl-two", "2.10")
    unpacked(tmp_path, "vl-two-more", "2.20")
    one = unpacked(tmp_path, "vl-one", "1.0", "vl-two<3")
    assert (one, newest) == overlaid({"vl-one": "1.0"}, tmp_path)


def test_what_was_asked_for_is_not_replaced_by_what_another_needs(tmp_path: Path) -> None:
    one = unpacked(tmp_path, "vl-one", "1.0", "vl-two==2.0")
    two = unpacked(tmp_path, "vl-two", "1.0")
    unpacked(tmp_path, "vl-two", "2.0")
    assert (one, two) == overlaid({"vl-one": "1.0", "vl-two": "1.0"}, tmp_path)


def test_what_is_installed_in_that_very_version_needs_no_folder(tmp_path: Path) -> None:
    from importlib.metadata import version

    assert () == overlaid({"packaging": version("packaging")}, tmp_path)


def test_a_release_that_wants_another_torch_is_refused(tmp_path: Path) -> None:
    unpacked(tmp_path, "vl-one", "1.0", "torch>=99")
    with pytest.raises(NotOverlaid, match=r"vl-one 1\.0 needs torch>=99, and this environment has \d"):
        overlaid({"vl-one": "1.0"}, tmp_path)


def test_needs_are_read_without_extras(tmp_path: Path) -> None:
    path = unpacked(tmp_path, "vl-one", "1.0", "a>1", 'b; extra == "dev"', 'c; python_version > "3"')
    assert ["a", "c"] == [requirement.name for requirement in needs(path)]


def test_pip_s_list_of_releases_is_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        overlays, "_pip", lambda *a: "vl-one (1.10.0)\nAvailable versions: 1.10.0, 1.9.1, 1.9.0\n  INSTALLED: 1.9.0\n"
    )
    assert ("1.9.0", "1.9.1", "1.10.0") == offered("vl-one")


def test_no_answer_of_pip_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlays, "_pip", lambda *a: "")
    with pytest.raises(NotOverlaid, match="pip does not say which releases of vl-one there are"):
        offered("vl-one")


def test_the_last_word_of_pip_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(overlays, "PIP", ("-c", "import sys; sys.exit('ERROR: No matching distribution')"))
    with pytest.raises(NotOverlaid, match=r"^pip install: No matching distribution$"):
        overlaid({"vl-one": "1.0"}, tmp_path)
    assert [] == list(tmp_path.glob("*"))


def test_a_process_finds_the_release_before_what_is_installed(tmp_path: Path) -> None:
    new, old = unpacked(tmp_path / "new", "vl-one", "2.0"), unpacked(tmp_path / "old", "vl-one", "1.0")
    emulation = Emulation(variables={"PYTHONPATH": str(old), "OTHER": "1"}, digest="0")
    variables = dict(under(emulation, [new]).variables)
    program = "import vl_one, importlib.metadata as m; print(vl_one.version, m.version('vl-one'))"
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert ("2.0 2.0\n", "1") == (done.stdout, variables["OTHER"])


def fetching(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """A pip that fetches a release of this version."""

    def pip(*arguments: str) -> str:
        target = Path(arguments[arguments.index("--target") + 1])
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(unpacked(target.parent / "made", "vl-one", version), target)
        return ""

    monkeypatch.setattr(overlays, "_pip", pip)


def test_an_interrupted_fetch_leaves_no_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetching(monkeypatch, "1.0")

    def interrupted(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            overlaid({"vl-one": "1.0"}, tmp_path)
    assert [] == list(tmp_path.iterdir())
    assert (tmp_path / "vl-one-1.0",) == overlaid({"vl-one": "1.0"}, tmp_path)
    assert ["vl-one-1.0"] == [path.name for path in tmp_path.iterdir()]


def test_half_a_release_is_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    half = tmp_path / "vl-one-1.0"
    half.mkdir()
    (half / "left.py").touch()
    fetching(monkeypatch, "1.0")
    assert (half,) == overlaid({"vl-one": "1.0"}, tmp_path)
    assert not (half / "left.py").exists()


def test_a_folder_that_is_no_release_is_passed_over(tmp_path: Path) -> None:
    one = unpacked(tmp_path, "vl-one", "1.0")
    (tmp_path / "vl-one-5.x").mkdir()
    (tmp_path / "vl-one-1.0.post1").touch()
    assert (one,) == overlaid({"vl-one": "1.0"}, tmp_path)


@pytest.mark.parametrize("text", ["5.17", "5", "5.17.", "newest"])
def test_a_version_is_given_in_full_as_runs_are_stored(text: str) -> None:
    with pytest.raises(InputError, match=r"^FROM is a version in full, such as 5\.17\.0; got"):
        checked(text, "FROM")


def test_a_comparison_of_chunks_that_takes_too_long_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "CHUNKED_DEADLINE_S", 0.01)
    with pytest.raises(Fault, match=r"^the comparison of chunks was not done after 0\.01 s$"):
        running.chunks_under(())
