"""GPU labels mean one card each, and a card that is not the one asked for is refused."""

import re
from pathlib import Path

import pytest

from tests.conftest import CONFIGS
from vram_ledger.analysis.ground.cards import read_cards
from vram_ledger.errors import InputError, WrongEnvironment
from vram_ledger.harness.gpus import ARCHITECTURES, NOMINAL, Gpu, identified, labelled, read_gpus

GPUS = read_gpus(CONFIGS / "gpus.toml")
GIB = 2**30
KNOWN = [g for g in GPUS if not g.is_nominal]
SECTION = """[h200]
names = ["x"]
memory_gib = 141
capability = "9.0"
multiprocessors = 132
shared_memory_bytes = 232448
l2_bytes = 1
"""


def printed_alike(total_bytes: int, figure: str) -> bool:
    """Whether a program that prints these bytes as this figure is printed prints this figure."""
    number, unit = figure.replace(",", "").split()
    texts = {"bytes": f"{total_bytes}", "MiB": f"{total_bytes >> 20}", "GiB": f"{total_bytes / GIB:.2f}"}
    return texts[unit] == number


@pytest.mark.parametrize(
    ("figure", "total_bytes", "alike"),
    [
        ("84,942,979,072 bytes", 84_942_979_072, True),
        ("84,942,979,072 bytes", 84_942_979_073, False),
        ("143156 MiB", 143_157 * 2**20 - 1, True),
        ("143156 MiB", 143_157 * 2**20, False),
        ("23.52 GiB", 24_084 * 2**20, True),
        ("23.52 GiB", 24_090 * 2**20, False),
    ],
)
def test_total_that_is_not_the_quoted_figure_is_found(figure: str, total_bytes: int, alike: bool) -> None:
    assert alike == printed_alike(total_bytes, figure)


def test_labels_and_families_do_not_collide() -> None:
    labels = [g.label for g in GPUS]
    shared = {g.family for g in GPUS if g.family != g.label}
    assert len(labels) == len(set(labels))
    assert {g.family for g in GPUS if g.label in shared} == shared & set(labels)


def test_no_card_fits_two_sections() -> None:
    shares = (0.93, 0.99, 1.0)
    cards = [(name, round(g.memory_gib * GIB * share)) for g in GPUS for name in g.names for share in shares]
    cards += [(name, g.pretended_bytes) for g in GPUS for name in g.names]
    fits = [(card, [g.label for g in GPUS if g.is_card(*card)]) for card in cards]
    assert not [fit for fit in fits if len(fit[1]) != 1]


def test_every_card_fits_its_own_section() -> None:
    assert not [g.label for g in GPUS for name in g.names if not g.is_card(name, g.pretended_bytes)]


@pytest.mark.parametrize("gpu", KNOWN, ids=lambda g: g.label)
def test_total_is_the_figure_that_its_source_quotes(gpu: Gpu) -> None:
    quoted = re.fullmatch(r"(?:torch prints|CUDA reports) (\S+ (?:bytes|MiB|GiB)): [^ /]+/\S+( \S+)*", gpu.total_from)
    if quoted is None:
        assert re.fullmatch(r"torch \S+, driver \S+, this card", gpu.total_from)
    else:
        assert printed_alike(gpu.pretended_bytes, quoted[1])


@pytest.mark.parametrize("gpu", [g for g in GPUS if g.outside_bytes], ids=lambda g: g.label)
def test_what_lies_outside_the_allocator_adds_up(gpu: Gpu) -> None:
    if gpu.outside_from == gpu.total_from:
        return  # measured by a profile
    numbers = re.findall(r"([\d.]+) (?:GiB|MiB)", gpu.outside_from or "")
    used, allocated, unallocated = (float(number) for number in numbers)
    assert round((used - allocated) * 1024 - unallocated) * 2**20 == gpu.outside_bytes


def test_total_without_a_source_is_the_nominal_memory() -> None:
    assert {NOMINAL} == {g.total_from for g in GPUS if g.is_nominal}
    assert not [g.label for g in GPUS if g.is_nominal and g.pretended_bytes != g.memory_gib * GIB]


def test_cards_of_one_capability_have_its_shared_memory_and_threads() -> None:
    found = {(g.capability, g.shared_memory_bytes, g.threads_per_multiprocessor) for g in GPUS}
    assert found <= {(c, a.shared_memory_bytes, a.threads_per_multiprocessor) for c, a in ARCHITECTURES.items()}


def test_evidence_card_has_the_memory_that_its_benchmark_printed() -> None:
    assert "23.52" == f"{labelled(GPUS, 'rtx-4090')[0].pretended_bytes / GIB:.2f}"


def test_predictions_know_the_same_total() -> None:
    cards = read_cards(CONFIGS / "gpus.toml")
    assert {g.label: g.pretended_bytes for g in GPUS} == {label: card.most_bytes for label, card in cards.items()}
    assert {g.label for g in KNOWN} == {label for label, card in cards.items() if card.least_bytes == card.most_bytes}


def test_card_of_a_family_is_accepted_where_the_family_is_asked_for() -> None:
    assert "h100-pcie" == identified(GPUS, "h100", "NVIDIA H100 PCIe", 84_942_979_072, None).label
    assert ["h100"] == [g.label for g in labelled(GPUS, "h100")]


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


@pytest.mark.parametrize(("label", "near"), [("a1000", "a100"), ("rtx4090", "rtx-4090"), ("h2000", "h200")])
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
        (SECTION, "'total_from' is missing"),
        (f'{SECTION}total_from = "x"', "it is 'nominal' where there is no total_bytes"),
        (f'{SECTION}total_from = "nominal"\ntotal_bytes = 5', "total_from says where total_bytes is known from"),
        (f'{SECTION}total_from = "x"\ntotal_bytes = 5', "a card of 141 GiB reports 136,257,837,466 to 154,425,549,128"),
        (f'{SECTION}total_from = "nominal"\noutside_bytes = 5', "'outside_from' is missing"),
        (f'{SECTION}total_from = "nominal"\noutside_from = "x"', "unknown field 'outside_from'"),
        (f'{SECTION.replace("9.0", "7.0")}total_from = "nominal"', "capability '7.0' is none of 7.5, 8.0"),
        (f'{SECTION.replace("232448", "5")}total_from = "nominal"', "capability 9.0 can opt in to 232,448"),
    ],
)
def test_bad_gpu_file_says_what_and_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gpus.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        read_gpus(path)
    assert str(path) in str(caught.value)
