"""Grid files give workloads in running order, and a bad one is refused with its place."""

import collections
import itertools
from pathlib import Path

import pytest

from tests.conftest import CONFIGS
from vram_ledger.errors import InputError
from vram_ledger.harness.grid import build_of, named_file, read_grid, unidentifiable
from vram_ledger.harness.records import Images

GOOD = "[[points]]\ncontexts_tokens = [512, 4096]\nbatches = [1, 8]\n"
GRIDS = sorted((CONFIGS / "grids").glob("*.toml"))


def grid(tmp_path: Path, text: str) -> Path:
    """A grid file."""
    path = tmp_path / "g.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", GRIDS, ids=lambda p: p.stem)
def test_shipped_grid_parses_and_is_identifiable(path: Path) -> None:
    assert read_grid(path, "qwen3.5-27b").workloads


def test_every_combination_is_measured_once(tmp_path: Path) -> None:
    workloads = read_grid(grid(tmp_path, GOOD + GOOD), "m").workloads
    assert 8 == len(workloads) == len(set(workloads))


def test_small_workloads_run_first(tmp_path: Path) -> None:
    workloads = read_grid(grid(tmp_path, GOOD), "m").workloads
    sizes = [w.batch * w.context_tokens for w in workloads]
    assert sorted(sizes) == sizes


def test_a_build_s_workloads_run_together(tmp_path: Path) -> None:
    text = 'kernels = ["fla", "torch"]\ncache = ["dynamic", "static"]\n' + GOOD
    builds = [build_of(w.configuration) for w in read_grid(grid(tmp_path, text), "m").workloads]
    assert 2 == 1 + sum(a != b for a, b in itertools.pairwise(builds))


def test_block_may_give_an_axis_of_its_own(tmp_path: Path) -> None:
    text = GOOD + 'kernels = ["torch"]\n' + GOOD
    kernels = [w.configuration.kernels for w in read_grid(grid(tmp_path, text), "m").workloads]
    assert {"fla": 8, "torch": 8} == {k: kernels.count(k) for k in ("fla", "torch")}


def test_axes_of_the_prefill_do_not_multiply_the_decodes(tmp_path: Path) -> None:
    text = 'logits = ["last", "all"]\nprefill_chunk_tokens = [0, 2048]\n' + GOOD
    workloads = read_grid(grid(tmp_path, text), "m").workloads
    assert (16, 4) == tuple(sum(w.phase == phase for w in workloads) for phase in ("prefill", "decode"))


def test_images_are_of_the_prefill(tmp_path: Path) -> None:
    text = 'images = ["none", "2x640x480"]\n' + GOOD.replace("512", "700")
    seen = [(w.phase, w.configuration.images) for w in read_grid(grid(tmp_path, text), "m").workloads]
    pair = Images(count=2, height_pixels=480, width_pixels=640)
    assert {("prefill", None): 4, ("prefill", pair): 4, ("decode", None): 4} == collections.Counter(seen)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("points = [", "line 1"),
        ("", "'points' is missing"),
        ("[[points]]\nbatches = [1]", "block 1: field 'contexts_tokens' is missing"),
        (GOOD.replace("512", "0"), "contexts_tokens must be between 1 and"),
        (GOOD.replace("512", "-5"), "contexts_tokens must be between 1 and"),
        (GOOD.replace("512", "512.0"), "must be a whole number, got 512.0"),
        (GOOD.replace("512", "true"), "must be a whole number, got True"),
        (GOOD.replace("512", "999999999999"), "must be between 1 and"),
        (GOOD.replace("[1, 8]", "[0, 8]"), "batches must be between"),
        (GOOD.replace("[1, 8]", "[]"), "batches must be a non-empty list"),
        (GOOD.replace("[1, 8]", '["one"]'), "must be a whole number, got 'one'"),
        ('kernels = ["flash"]\n' + GOOD, "kernels has 'flash'; it takes fla, torch"),
        ("contexts = [1]\n" + GOOD, "unknown field 'contexts'"),
        (GOOD + "batch = [1]\n", "unknown field 'batch'"),
        ("repeats = 1000\n" + GOOD, "repeats must be between"),
        ('images = ["640x480"]\n' + GOOD, "images: '640x480' is neither 'none' nor COUNTxWIDTHxHEIGHT"),
        ('images = ["0x640x480"]\n' + GOOD, "is neither 'none' nor COUNTxWIDTHxHEIGHT"),
        (GOOD + 'images = ["2x640x480"]\n', "block 1: images: 2x640x480 take 604 tokens, markers included"),
        ('images = ["1x4100x20"]\n' + GOOD, "an image of 4100x20 is more than 200 times as long as it is wide"),
        ('images = ["1x64x64"]\nmodel_class = ["Qwen3_5ForCausalLM"]\n' + GOOD, "has no vision tower"),
        ('images = ["1x64x64"]\nprefill_chunk_tokens = [256]\n' + GOOD, "take prefill_chunk_tokens = [0]"),
    ],
)
def test_bad_grid_says_what_and_where(tmp_path: Path, text: str, said: str) -> None:
    path = grid(tmp_path, text)
    with pytest.raises(InputError, match=said.replace("[", r"\[")) as caught:
        read_grid(path, "m")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "points",
    [
        {(1, 512), (1, 4096), (1, 8192), (1, 32768)},
        {(1, 512), (2, 512), (4, 512)},
        {(1, 512), (8, 4096)},
        {(50, 1000), (51, 1000), (50, 1001), (51, 1001)},
    ],
)
def test_points_that_can_t_identify_the_formula_are_refused(points: set[tuple[int, int]]) -> None:
    assert unidentifiable(points) is not None


def test_corners_identify_the_formula() -> None:
    assert unidentifiable({(1, 256), (1, 32768), (32, 256), (32, 1024)}) is None


def test_unknown_name_lists_near_misses() -> None:
    with pytest.raises(InputError, match="no grid is called 'defualt'; near: default; configs/grids has "):
        named_file(CONFIGS / "grids", "defualt", ".toml", "grid")


def test_file_that_does_not_exist_is_said_so() -> None:
    with pytest.raises(InputError, match="does not exist"):
        named_file(CONFIGS / "grids", "nowhere/g.toml", ".toml", "grid")
