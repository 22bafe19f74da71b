"""What a release costs: the stored runs, what moved between neighbours, and the release that a figure moved in."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.invoked import Result, invoke
from tests.replayed import small_config
from tests.test_derived import stored as stored_program
from vram_ledger.analysis.derivation.derived_files import configuration_of, version
from vram_ledger.analysis.versions.bisection import NotMoved, Quantity, bisected
from vram_ledger.analysis.versions.chunked import stored_compared
from vram_ledger.analysis.versions.records import (
    Observed,
    Point,
    Run,
    Software,
    Tensor,
    Versions,
    VersionsError,
    read_versions,
    versions_path,
    write_versions,
)
from vram_ledger.analysis.versions.shapes import slope_of
from vram_ledger.analysis.versions.steps import along, compared, peak_bytes, step_between, stretches
from vram_ledger.analysis.versions.tables import tensor_text
from vram_ledger.commands import versions as commands
from vram_ledger.harness.models import sha256_of
from vram_ledger.harness.records import Phase

FOLDER = ROOT / "results" / "versions"
FILES = sorted(FOLDER.glob("*/*.json"))
WORKSPACE_BYTES = 8_519_680  # of the libraries on an A100; the programs have none
ALONG: tuple[str, dict[str, str]] = ("transformers", {})
KNOWN_STEP = -33_024  # a token of the 27B's prefill: docs/derived.md
CARD = "emulated-a100-80gb"


def stored(name: str) -> Versions:
    return read_versions(FOLDER / CARD / f"{name}.json")


def every_step() -> Iterator[tuple[str, Run, Run, Phase]]:
    for path in FILES:
        for package in ("transformers", "fla", "torch"):
            runs = along(read_versions(path).runs, package, {})
            for before, after in pairwise(runs):
                for phase in ("prefill", "decode"):
                    yield path.stem, before, after, phase  # type: ignore[misc]


def run_of(versions: Versions, transformers: str) -> Run:
    (run,) = [r for r in along(versions.runs, "transformers", {}) if r.software.transformers == transformers]
    return run


# ---- stored


@pytest.mark.parametrize("name", ["qwen3.5-27b.text", "qwen3.5-9b.text"])
@pytest.mark.parametrize("ends", [("5.17.0", "5.23.0"), ("5.22.2", "5.23.0"), ("5.17.0", "5.24.0")])
def test_stored_releases_have_the_known_step(name: str, ends: tuple[str, str]) -> None:
    before, after = (run_of(stored(name), release) for release in ends)
    step = step_between(before, after, "prefill")
    assert step is not None
    heads = {"qwen3.5-27b.text": 48, "qwen3.5-9b.text": 32}[name] - 16
    expected = -heads * (4 * 128 * 2 + 2 * 4)  # docs/derived.md: four tensors of as many heads less, two reciprocals
    assert None not in step.slopes
    assert expected == step.slopes[1] - step.slopes[0]  # type: ignore[operator]
    assert expected == KNOWN_STEP or name != "qwen3.5-27b.text"
    assert expected * 131_072 == step.moved_bytes


def test_step_names_the_tensors_that_came_and_went_with_the_lines_of_their_release() -> None:
    before, after = (run_of(stored("qwen3.5-27b.text"), release) for release in ("5.22.2", "5.23.0"))
    step = step_between(before, after, "prefill")
    assert step is not None
    modeling = "transformers/models/qwen3_5/modeling_qwen3_5.py"
    went = sorted((t.bytes // 131_072, t.count, t.op, t.source) for t in step.went)
    assert [
        (384, 2, "empty", "fla/modules/norm/l2norm.py:128"),
        (12_288, 1, "clone", f"{modeling}:609"),
        (12_288, 1, "clone", f"{modeling}:610"),
        (24_576, 2, "empty_like", "fla/modules/norm/l2norm.py:117"),
    ] == went
    assert [128, 8_192, 8_192] == sorted(t.bytes // 131_072 for t in step.came)


def test_stored_slopes_are_those_that_were_derived_and_published() -> None:
    slopes = {
        run.software.transformers: slope_of(run.observed("prefill"))
        for run in along(stored("qwen3.5-27b.text").runs, *ALONG)
    }
    assert (267_568, 234_544) == (slopes["5.17.0"], slopes["5.23.0"])  # make derived, docs/derived.md


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("release", ["5.17.0", "5.24.0"])
def test_stored_peaks_equal_the_derived_programs_to_the_byte(release: str, phase: Phase) -> None:
    program = stored_program("text", phase, release)
    points = run_of(stored("qwen3.5-27b.text"), release).observed(phase).points
    expected = [program.peak_bytes(p.batch, p.context_tokens) + WORKSPACE_BYTES for p in points]
    assert expected == [p.requested_bytes for p in points]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_tensors_alive_at_the_stored_peak_add_up_to_it(path: Path) -> None:
    for run in read_versions(path).runs:
        for observed in run.phases:
            if not observed.failed:
                assert observed.points[-1].requested_bytes == peak_bytes(observed), run.software


def test_every_stored_step_is_what_came_less_what_went() -> None:
    for name, before, after, phase in every_step():
        step = step_between(before, after, phase)
        if step is not None:
            moved = sum(t.bytes for t in step.came) - sum(t.bytes for t in step.went)
            assert step.moved_bytes == moved, (name, before.software, after.software, phase)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_stored_file_is_written_as_it_was_read(path: Path, tmp_path: Path) -> None:
    again = tmp_path / path.name
    write_versions(read_versions(path), again)
    assert path.read_text(encoding="utf-8") == again.read_text(encoding="utf-8")


# ---- planted

RESIDENT = Tensor(group="weights", module="", op="resident", source="", dtype="", shape=(), count=853, bytes=10**9 + 7)
COPY = Tensor(
    group="delta-rule scratch", module="model.layers.*.linear_attn", op="clone", source="transformers/m.py:10",
    dtype="bfloat16", shape=(1, 300, 8), count=2, bytes=9_600,
)  # fmt: skip


def observed(phase: Phase, a_token: int, fixed: int = 10**6, tensors: tuple[Tensor, ...] = (RESIDENT,)) -> Observed:
    points = tuple(
        Point(batch=1, context_tokens=c, requested_bytes=fixed + a_token * c, allocated_bytes=0, reserved_bytes=0)
        for c in (100, 200, 300)
    )
    return Observed(
        phase=phase, failed="", kernels=None, points=points, guessed=(), running="clone in x (a.py:1)", tensors=tensors
    )


def planted(release: str, a_token: int, tensors: tuple[Tensor, ...] = (RESIDENT,), fla: str = "0.6.0") -> Run:
    software = Software(
        transformers=release, fla=fla, torch="2.14.1+cu130", triton="3.8.0", causal_conv1d=None, cudnn="92400"
    )
    phases = (observed("prefill", a_token, tensors=tensors), observed("decode", 3))
    return Run(software=software, emulation="0123456789ab", phases=phases)


def test_slope_is_told_only_where_three_contexts_lie_on_one_line() -> None:
    straight = observed("prefill", 17)
    bent = dataclasses.replace(
        straight,
        points=(*straight.points[:2], dataclasses.replace(straight.points[2], requested_bytes=10**6 + 17 * 300 + 1)),
    )
    assert (17, None) == (slope_of(straight), slope_of(bent))


def test_a_tensor_whose_line_alone_moved_has_not_moved() -> None:
    moved = dataclasses.replace(COPY, source="transformers/m.py:99")
    assert ((), (), ()) == compared([COPY], [moved])


@pytest.mark.parametrize("other", [{"dtype": "float32"}, {"bytes": 19_200}], ids=str)
def test_a_tensor_of_another_kind_came_and_the_old_one_went(other: dict[str, object]) -> None:
    changed = dataclasses.replace(COPY, **other)  # type: ignore[arg-type]
    assert ((COPY,), (changed,), ()) == compared([COPY], [changed])


@pytest.mark.parametrize(
    "other", [{"op": "cat"}, {"shape": (300, 8)}, {"source": "fla/n.py:10"}, {"group": "MLP"}], ids=str
)
def test_a_tensor_of_the_same_size_that_something_else_makes_is_elsewhere(other: dict[str, object]) -> None:
    changed = dataclasses.replace(COPY, **other)  # type: ignore[arg-type]
    assert ((), (), ((COPY, changed),)) == compared([COPY], [changed])


def test_of_several_alike_only_those_that_are_more_went() -> None:
    three = dataclasses.replace(COPY, count=3, bytes=14_400)
    one = dataclasses.replace(COPY, count=1, bytes=4_800)
    assert ((one,), (), ()) == compared([three], [COPY])
    assert ((), (one,), ()) == compared([COPY], [three])


def test_weights_of_another_sum_went_and_came_whole() -> None:
    more = dataclasses.replace(RESIDENT, bytes=RESIDENT.bytes + 4)
    assert ((RESIDENT,), (more,), ()) == compared([RESIDENT], [more])


@pytest.mark.parametrize(
    ("shape", "size", "said"),
    [
        ((1, 8192, 16, 128), 8192 * 4096, "(1, L, 16, 128) bfloat16, 4,096 B a token, "),
        ((1, 4, 8193, 256), 8193 * 2048, "(1, 4, L + 1, 256) bfloat16, 2,048 B a token, "),
        ((1, 48, 128, 64, 128), 8192 * 24_576, "(1, 48, 128, 64, 128) bfloat16, 24,576 B a token, "),
        ((1, 48, 128, 128), 3_145_728, "(1, 48, 128, 128) bfloat16, 3,145,728 B, "),
    ],
)
def test_a_tensor_s_bytes_are_told_a_token_where_they_grow_with_them(
    shape: tuple[int, ...], size: int, said: str
) -> None:
    tensor = dataclasses.replace(COPY, shape=shape, count=1, bytes=size)
    assert f"1 × clone {said}transformers/m.py:10" == tensor_text(tensor, 8192)


def test_neighbours_that_are_the_same_to_the_byte_are_one_row() -> None:
    runs = [planted(f"5.{n}.0", 17 if n < 4 else 11) for n in range(1, 7)]
    assert ["5.1.0 to 5.3.0", "5.4.0 to 5.6.0"] == [s.text for s in stretches(runs, "transformers")]


def test_a_release_in_which_reserved_alone_moved_is_a_row_of_its_own() -> None:
    first, second = planted("5.1.0", 17), planted("5.2.0", 17)
    prefill, decode = second.phases
    other = dataclasses.replace(prefill, points=(*prefill.points[:2], _reserving(prefill.points[2], 2**21)))
    runs = [first, dataclasses.replace(second, phases=(other, decode))]
    assert ["5.1.0", "5.2.0"] == [s.text for s in stretches(runs, "transformers")]


def _reserving(point: Point, size: int) -> Point:
    return dataclasses.replace(point, reserved_bytes=size)


def test_runs_along_one_library_have_the_newest_of_the_others() -> None:
    runs = [planted("5.9.0", 1, fla="0.6.0"), planted("5.10.0", 1, fla="0.5.2"), planted("5.10.0", 1, fla="0.6.0")]
    assert ["5.9.0", "5.10.0"] == [r.software.transformers for r in along(runs, "transformers", {})]
    assert ["0.5.2", "0.6.0"] == [r.software.fla for r in along(runs, "fla", {})]


# ---- bisection

RELEASES = tuple(f"5.{n}.0" for n in range(40))


@pytest.mark.parametrize("step", range(1, 40))
def test_bisection_finds_a_planted_step_in_a_few_looks(step: int) -> None:
    values = {release: 7 if n < step else 5 for n, release in enumerate(RELEASES)}
    found = bisected(RELEASES, values.get)
    assert (RELEASES[step - 1], RELEASES[step]) == (found.before, found.after)
    assert len(found.looked) <= 8  # both ends, and six halvings of 39


@pytest.mark.parametrize("step", [5, 20, 21, 38])
def test_bisection_passes_over_releases_without_a_figure(step: int) -> None:
    values = {r: None if n % 3 == 1 else 7 if n < step else 5 for n, r in enumerate(RELEASES[:-1])}
    values[RELEASES[-1]] = 5
    found = bisected(RELEASES, values.get)
    told = [r for r in RELEASES if values[r] is not None]
    after = next(r for r in told if values[r] == 5)
    assert (told[told.index(after) - 1], after) == (found.before, found.after)
    assert all(values[release] is None for release in found.without)


def test_bisection_of_a_figure_that_did_not_move_says_so() -> None:
    with pytest.raises(NotMoved, match=r"5\.0\.0 and 5\.39\.0 have the same: 7"):
        bisected(RELEASES, lambda release: 7)


def test_bisection_from_a_release_without_a_figure_says_so() -> None:
    with pytest.raises(NotMoved, match=r"5\.0\.0 has no such figure"):
        bisected(RELEASES, lambda release: None)


@pytest.mark.parametrize("name", ["slope", "requested", "allocated", "reserved"])
def test_quantity_is_read_off_a_run(name: str) -> None:
    run = run_of(stored("qwen3.5-27b.text"), "5.24.0")
    point = run.observed("decode").points[-1]
    expected = 67_584 if name == "slope" else getattr(point, f"{name}_bytes")
    assert expected == Quantity(name=name, phase="decode", batch=1, context_tokens=131_072).of(run)


# ---- the commands


def lines(done: Result) -> list[str]:
    return done.stdout.splitlines()


def test_bisect_says_how_much_of_the_way_lies_elsewhere() -> None:
    done = invoke("bisect", "5.4.0", "5.24.0", "--quantity", "requested")
    assert "not all: from 5.5.0 to 5.24.0 it moves by -4,254,597,120 more; make bisect there, too" in lines(done)


def test_bisect_finds_the_release_of_the_known_step_among_the_stored_ones() -> None:
    done = invoke("bisect", "5.17.0", "5.24.0")
    assert 0 == done.exit_code
    assert lines(done)[-1].startswith(
        "exit 0: it moved in transformers 5.23.0: 267,568 in 5.22.2, 234,544 in 5.23.0 (-33,024); "
    )
    assert not [line for line in lines(done) if line.endswith("run now")]


def test_versions_shows_the_step_and_its_tensors() -> None:
    done = invoke("versions", "--transformers", "5.17.0", "--transformers", "5.23.0")
    assert (0, "exit 0: sets of releases: 2, 0 of them run now") == (done.exit_code, lines(done)[-1])
    assert "5.17.0 to 5.23.0: -4,328,521,728 B at 131,072 tokens, -33,024 B a token (267,568 to 234,544)" in (
        lines(done)
    )


def test_versions_as_json_is_what_is_stored() -> None:
    done = invoke("versions", "--transformers", "5.17.0", "--json")
    (run,) = json.loads(done.stdout)["runs"]
    assert "5.17.0" == run["software"]["transformers"]


def test_versions_draws_a_figure_that_says_it_is_emulated(tmp_path: Path) -> None:
    path = tmp_path / "versions.svg"
    assert 0 == invoke("versions", "--figure", path).exit_code
    text = path.read_text(encoding="utf-8")
    assert "EMULATED CARD" in text
    assert "from 5.23.0 on" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("versions", "--transformers", "newest"), "TRANSFORMERS is a version in full, such as 5.17.0; got 'newest'"),
        (("versions", "--kernels", "triton"), "KERNELS is fla or torch, got 'triton'"),
        (("versions", "--figure", "/dev/null/x.svg"), "/dev/null/"),
        (("bisect", "5.17.0", ""), "TO is a version in full, such as 5.17.0; got ''"),
        (("bisect", "5.23.0", "5.17.0"), "FROM=5.23.0 is not before TO=5.17.0"),
        (("bisect", "5.17.0", "5.23.0", "--phase", "x"), "phase 'x' is neither prefill nor decode"),
        (("bisect", "5.17.0", "5.23.0", "--quantity", "x"), "QUANTITY is slope, requested, allocated, reserved"),
        (
            ("bisect", "5.17.0", "5.23.0", "--context", "9"),
            "BATCH and CONTEXT are one of the shapes of a prefill: 1 × 4",
        ),
        (("bisect", "5.17.0", "5.23.0", "--package", "torch"), "PACKAGE is transformers or fla, got 'torch'"),
    ],
)
def test_wrong_input_is_answered_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = invoke(*arguments)
    assert 2 == done.exit_code
    assert done.stderr.splitlines()[-1].startswith(f"exit 2: bad input: {said}")


def test_a_figure_that_did_not_move_is_answered_with_no() -> None:
    done = invoke("bisect", "5.17.0", "5.22.2")
    assert (1, "exit 1: refused: 5.17.0 and 5.22.2 have the same: 267,568") == (
        done.exit_code,
        done.stderr.splitlines()[-1],
    )


def test_a_model_of_which_no_release_is_stored_is_told_how_to_run_one(tmp_path: Path) -> None:
    done = invoke("versions", "--model", "qwen3.5-2b", "--results", tmp_path)
    assert 4 == done.exit_code
    assert "TRANSFORMERS=minors" in done.stderr


def test_a_file_that_is_not_as_written_is_named(tmp_path: Path) -> None:
    versions = stored("qwen3.5-27b.text")
    path = versions_path(tmp_path, versions.gpu_label, versions.configuration, versions.config_sha256)
    write_versions(versions, path)
    path.write_text(path.read_text(encoding="utf-8").replace('"reserved_bytes"', '"reserve"', 1), encoding="utf-8")
    with pytest.raises(VersionsError, match=path.name):
        read_versions(path)


def test_own_runs_are_added_to_what_is_published(tmp_path: Path) -> None:
    versions = stored("qwen3.5-27b.text")
    own = dataclasses.replace(versions, runs=(dataclasses.replace(versions.runs[-1], software=_newer()),))
    write_versions(own, versions_path(tmp_path, own.gpu_label, own.configuration, own.config_sha256))
    done = invoke("bisect", "5.22.2", "5.99.0", "--results", tmp_path)
    assert "exit 0: it moved in transformers 5.23.0: " in done.stdout


def test_runs_of_a_config_are_not_those_of_what_it_is_edited_to(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    of_config = "versions", "--model", config, "--results", tmp_path / "runs"
    told = dataclasses.replace(
        stored("qwen3.5-27b.text"), configuration=configuration_of(config.stem, "text"), config_sha256=sha256_of(config)
    )
    path = versions_path(tmp_path / "runs", told.gpu_label, told.configuration, told.config_sha256)
    write_versions(told, path)
    assert 0 == invoke(*of_config).exit_code
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert 4 == invoke(*of_config).exit_code
    assert path != versions_path(tmp_path / "runs", told.gpu_label, told.configuration, sha256_of(config))


def test_bisection_without_fla_takes_no_stored_run_that_had_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = {"torch": "2.14.1", "transformers": "5.24.0"}
    monkeypatch.setattr(commands, "_installed", lambda name: installed.get(name, ""))
    monkeypatch.setattr(commands, "offered", lambda name: ("5.22.2", "5.24.0", "5.99.0"))
    monkeypatch.setattr(
        commands.Question, "run", lambda self, wanted: planted(wanted["transformers"], len(wanted["transformers"]))
    )
    done = invoke("bisect", "5.22.2", "5.99.0", "--results", tmp_path)
    assert "exit 1: refused: 5.22.2 and 5.99.0 have the same: 6" == done.stderr.splitlines()[-1]
    assert 2 == done.stdout.count("run now")


def _newer() -> Software:
    return dataclasses.replace(stored("qwen3.5-27b.text").runs[-1].software, transformers="5.99.0")


def test_stored_releases_are_shown_without_torch() -> None:
    program = (
        "import sys; from vram_ledger.cli import run\n"
        "run(['versions']); run(['bisect', '5.17.0', '5.23.0'])\n"
        "print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.splitlines()[-1]


@pytest.mark.parametrize("model", ["qwen3.5-27b", "qwen3.5-9b"])
def test_stored_figure_is_the_generated_one(model: str, tmp_path: Path) -> None:
    path = tmp_path / "versions.svg"
    assert 0 == invoke("versions", "--model", model, "--figure", path).exit_code
    assert (FOLDER / f"{model}.text.svg").read_text(encoding="utf-8") == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["qwen3.5-27b.text", "qwen3.5-9b.text"])
def test_releases_whose_decode_runs_the_torch_reference_beside_fla_are_known(name: str) -> None:
    seen = {run.software.transformers: run.observed("decode").kernels for run in along(stored(name).runs, *ALONG)}
    slow = {release for release, k in seen.items() if k and (k.delta_rule or "").startswith("torch reference: ")}
    assert {"5.15.0", "5.15.1"} == slow


def test_the_cache_of_some_releases_keeps_the_recurrent_state_in_bfloat16() -> None:
    kept = {run.software.transformers: _state_dtypes(run) for run in along(stored("qwen3.5-27b.text").runs, *ALONG)}
    narrow = {release for release, dtypes in kept.items() if dtypes == {"bfloat16"}}
    assert all(dtypes in ({"bfloat16"}, {"float32"}) for dtypes in kept.values())
    assert {release for release in kept if (5, 5) <= version(release)[:2] <= (5, 13)} == narrow


def _state_dtypes(run: Run) -> set[str]:
    return {t.dtype for t in run.observed("decode").tensors if t.shape == (1, 48, 128, 128) and t.count >= 47}


def test_an_fla_without_grouped_heads_leaves_a_state_of_the_keys_heads() -> None:
    runs = along(stored("qwen3.5-27b.text").runs, "fla", {})
    heads = {r.software.of("fla"): {t.shape[1] for t in r.observed("prefill").tensors if _is_state(t)} for r in runs}
    assert {16} == heads["0.4.2"]
    assert all({48} == seen for release, seen in heads.items() if release != "0.4.2")


def _is_state(tensor: Tensor) -> bool:
    return tensor.op == "zeros_like" and tensor.shape[2:] == (128, 128)


@pytest.mark.parametrize("name", ["qwen3.5-27b.text", "qwen3.5-9b.text"])
def test_stored_releases_of_torch_are_the_same_to_the_byte(name: str) -> None:
    runs = along(stored(name).runs, "torch", {})
    assert ["2.11.0", "2.14.1"] == [run.software.of("torch") for run in runs]
    assert 1 == len(stretches(runs, "torch"))


@pytest.mark.parametrize("name", ["qwen3.5-27b.text-reference", "qwen3.5-9b.text-reference"])
def test_the_reference_written_anew_takes_more_a_token(name: str) -> None:
    slopes = {r.software.transformers: slope_of(r.observed("prefill")) for r in along(stored(name).runs, *ALONG)}
    old, new, newest = (slopes[release] for release in ("5.16.1", "5.17.0", "5.24.0"))
    assert old is not None
    assert new is not None
    assert newest is not None
    heads = {"qwen3.5-27b.text-reference": 48, "qwen3.5-9b.text-reference": 32}[name]
    assert old < newest < new
    assert 2 * heads * 128 * 2 == new - newest  # query and key, widened in bfloat16, are no longer kept


@pytest.mark.parametrize("name", ["qwen3.5-27b.text", "qwen3.5-9b.text"])
def test_every_release_is_stored_and_its_chunks_were_compared(name: str) -> None:
    releases = [run.software.transformers for run in along(stored(name).runs, *ALONG)]
    assert ("5.2.0", 42, "5.24.0") == (releases[0], len(releases), releases[-1])
    assert releases == [answer.transformers for answer in stored_compared()]
