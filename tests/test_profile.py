"""A card's profile is a whole section, stored once, and nothing is written where it can't be trusted."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import CONFIGS
from tests.invoked import invoke
from vram_ledger.commands import instruments
from vram_ledger.errors import InputError, WrongEnvironment
from vram_ledger.harness.child import WorkerFailed
from vram_ledger.harness.devices import cuda
from vram_ledger.harness.devices.cpu import CpuDevice
from vram_ledger.harness.gpus import Gpu, read_gpus
from vram_ledger.harness.profile import label_of, section_text, store, take
from vram_ledger.harness.records import Failure, Standard, encode

FOUND = {
    "device": "cuda",
    "torch": "2.14.1+cu130",
    "driver": "580.95.05",
    "mig": None,
    "gpu_name": "NVIDIA GeForce RTX 9999",
    "gpu_total_bytes": 50_000_000_000,
    "gpu_capability": "12.0",
}
SILICON = {"multiprocessors": 200, "shared_memory_bytes": 101_376, "l2_bytes": 150_000_000, "neighbour_bytes": 0}
STANDARD = Standard(when="start", probes=(), workspace_bytes=33_554_432, context_bytes=500_000_000)
SECTION = """[rtx-9999]
names = ["NVIDIA GeForce RTX 9999"]
memory_gib = 47
capability = "12.0"
multiprocessors = 200
shared_memory_bytes = 101376
l2_bytes = 150000000
total_bytes = 50000000000
total_from = "torch 2.14.1+cu130, driver 580.95.05, this card"
outside_bytes = 500000000
outside_from = "torch 2.14.1+cu130, driver 580.95.05, this card"
"""


class Pretender:
    """Stands for a worker process on a machine with a card; ``said`` replaces what it answers."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._answers = {"describe": FOUND, "silicon": SILICON, "standard": encode(STANDARD)} | said
        self.closed = False

    def ask(self, command: dict[str, Any], deadline_s: float) -> Any:
        """As prepared; an exception is raised."""
        answer = self._answers[command["do"]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Notes that the process was ended."""
        self.closed = True


def taken(label: str = "", **said: Any) -> Gpu:
    """The profile of the pretended card."""
    return take({}, label, lambda order: Pretender(said))  # type: ignore[arg-type,return-value]


def test_section_has_every_field_as_the_card_reports_it() -> None:
    assert SECTION == section_text(taken())


def test_section_is_read_back_as_it_was_taken(tmp_path: Path) -> None:
    assert store(tmp_path / "gpus.toml", taken("mine"))
    assert (taken("mine"),) == read_gpus(tmp_path / "gpus.toml")


def test_section_is_added_to_the_others_whose_text_stays(tmp_path: Path) -> None:
    path, text = tmp_path / "gpus.toml", (CONFIGS / "gpus.toml").read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    assert store(path, taken())
    assert f"{text}\n{SECTION}" == path.read_text(encoding="utf-8")
    assert [path] == list(tmp_path.iterdir())


def test_same_card_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gpus.toml"
    store(path, taken())
    assert not store(path, dataclasses.replace(taken(), total_bytes=50_000_000_000 - 2**20))
    assert SECTION == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"multiprocessors": 199}, "[rtx-9999] has this label or is this card, and differs: multiprocessors is 200"),
        ({"total_bytes": 49_900_000_000}, "total_bytes is 50,000,000,000 there and 49,900,000,000 here"),
        ({"names": ("NVIDIA X",)}, "names has no 'NVIDIA X'"),
        ({"label": "other", "l2_bytes": 5}, "[rtx-9999] has this label or is this card, and differs: l2_bytes is 150"),
    ],
)
def test_section_that_says_otherwise_is_named_and_kept(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "gpus.toml"
    store(path, taken())
    with pytest.raises(InputError) as caught:
        store(path, dataclasses.replace(taken(), **change))
    assert said in str(caught.value)
    assert SECTION == path.read_text(encoding="utf-8")


def test_nominal_section_is_told_what_the_card_reports(tmp_path: Path) -> None:
    path = tmp_path / "gpus.toml"
    store(path, dataclasses.replace(taken(), total_bytes=None, total_from="nominal"))
    with pytest.raises(InputError, match="total_bytes is nominal there and 50,000,000,000 here"):
        store(path, taken())


def test_section_that_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "gpus.toml"
    with pytest.raises(InputError, match=r"capability '13\.0' is none of"):
        store(path, taken(describe=FOUND | {"gpu_capability": "13.0"}))
    assert [] == list(tmp_path.iterdir())


def test_folder_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/gpus\.toml: No such file"):
        store(tmp_path / "missing" / "gpus.toml", taken())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"describe": FOUND | {"mig": "enabled"}}, "MIG slice"),
        ({"silicon": WorkerFailed(Failure(reason="crash", message="off the bus"))}, "asked: off the bus"),
    ],
)
def test_without_a_whole_card_there_is_no_profile(said: dict[str, Any], reason: str) -> None:
    worker = Pretender(said)
    with pytest.raises(WrongEnvironment, match=r"\+".join(reason.split("+"))):
        take({}, "", lambda order: worker)  # type: ignore[arg-type,return-value]
    assert worker.closed


@pytest.mark.parametrize(("neighbours", "outside"), [(0, 500_000_000), (100_000_000, 500_000_000), (None, None)])
def test_memory_of_other_processes_is_not_the_context_s(neighbours: int | None, outside: int | None) -> None:
    assert outside == taken(silicon=SILICON | {"neighbour_bytes": neighbours}).outside_bytes


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb-hbm3"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("Tesla T4", "t4"),
        ("NVIDIA", "card"),
    ],
)
def test_label_is_made_from_the_name(name: str, label: str) -> None:
    assert label == label_of(name)


@pytest.mark.parametrize("label", ["RTX 4090", "../x", "a_b"])
def test_label_that_is_none_is_refused_before_a_worker_starts(label: str) -> None:
    with pytest.raises(InputError, match="a label is lower-case"):
        take({}, label, lambda order: pytest.fail("started"))


def test_silicon_is_read_from_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    device = cuda.CudaDevice.__new__(cuda.CudaDevice)
    device._properties = SimpleNamespace(
        multi_processor_count=200, shared_memory_per_block_optin=101_376, L2_cache_size=150_000_000
    )
    monkeypatch.setattr(device, "neighbour_bytes", lambda: 0)
    assert SILICON == device.silicon()
    assert {} == CpuDevice().silicon()


def test_command_prints_the_section_and_stores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruments, "card_there", lambda: True)
    monkeypatch.setattr(instruments, "take", lambda order, label: taken(label))
    done = invoke("profile", "--to", str(tmp_path / "gpus.toml"))
    assert (0, True) == (done.exit_code, done.stdout.startswith(SECTION))
    assert SECTION == (tmp_path / "gpus.toml").read_text(encoding="utf-8")


def test_command_without_a_card_leaves_with_three(tmp_path: Path, no_card: None) -> None:
    done = invoke("profile", "--label", "rtx-9999", "--to", str(tmp_path / "gpus.toml"))
    assert 3 == done.exit_code
    assert "exit 3: environment not as asked: a profile is taken of a card" in done.stderr.strip().splitlines()[-1]
    assert [] == list(tmp_path.iterdir())
