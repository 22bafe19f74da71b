"""GPU labels mean one card each, and a card that is not the one asked for is refused."""

from pathlib import Path

import pytest

from harness.gpus import identified, labelled, read_gpus
from harness.inputs import InputError, WrongEnvironment
from tests.conftest import CONFIGS

GPUS = read_gpus(CONFIGS / "gpus.toml")
GIB = 2**30


def test_labels_and_families_do_not_collide() -> None:
    labels = [g.label for g in GPUS]
    shared = {g.family for g in GPUS if g.family != g.label}
    assert len(labels) == len(set(labels))
    assert not shared & set(labels)


def test_no_card_fits_two_sections() -> None:
    cards = [(name, round(g.memory_gib * GIB * share)) for g in GPUS for name in g.names for share in (0.93, 0.99, 1)]
    fits = [(card, [g.label for g in GPUS if g.is_card(*card)]) for card in cards]
    assert not [fit for fit in fits if len(fit[1]) != 1]


@pytest.mark.parametrize(("memory", "label"), [(39.39, "a100-40gb"), (79.15, "a100-80gb")])
def test_a100_resolves_to_the_size_that_is_there(memory: float, label: str) -> None:
    size = label.removeprefix("a100-").upper()
    assert label == identified(GPUS, "a100", f"NVIDIA A100-SXM4-{size}", int(memory * GIB), None).label


def test_card_is_found_without_a_label() -> None:
    assert "h200" == identified(GPUS, None, "NVIDIA H200", 150_000_000_000, None).label


def test_other_card_is_refused_naming_both() -> None:
    with pytest.raises(WrongEnvironment, match=r"GPU=a100 asks for .*A100-SXM4-40GB.* but the card is a NVIDIA H200"):
        identified(GPUS, "a100", "NVIDIA H200", 150_000_000_000, None)


def test_card_with_half_its_memory_is_refused() -> None:
    with pytest.raises(WrongEnvironment):
        identified(GPUS, "h200", "NVIDIA H200", 70 * GIB, None)


def test_mig_slice_is_refused() -> None:
    with pytest.raises(WrongEnvironment, match="MIG slice"):
        identified(GPUS, "a100", "NVIDIA A100-SXM4-40GB", 40 * GIB, "enabled")


def test_unknown_card_says_where_to_add_it() -> None:
    with pytest.raises(WrongEnvironment, match=r"no section in configs/gpus\.toml"):
        identified(GPUS, None, "NVIDIA TITAN", 12 * GIB, None)


@pytest.mark.parametrize(("label", "near"), [("a1000", "a100"), ("rtx4090", "rtx-4090"), ("H200", "h200")])
def test_unknown_label_lists_near_misses(label: str, near: str) -> None:
    with pytest.raises(InputError, match=near):
        labelled(GPUS, label)


@pytest.mark.parametrize("label", ["../h200", "h200/x", "/etc", ""])
def test_label_with_a_path_in_it_is_refused(label: str) -> None:
    with pytest.raises(InputError):
        labelled(GPUS, label)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[h200", "line 1"),
        ("[h200]\nnames = []", "names must be a non-empty list"),
        ('[h200]\nnames = ["x"]', "'memory_gib' is missing"),
        ('[h200]\nnames = ["x"]\nmemory_gib = 0', "between 1 and"),
        ('["a/b"]\nnames = ["x"]', "a label is lower-case"),
    ],
)
def test_bad_gpu_file_says_what_and_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gpus.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        read_gpus(path)
    assert str(path) in str(caught.value)
