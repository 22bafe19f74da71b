"""What the allocator adds is bounded by what replays needed, and the bounds never fall."""

from pathlib import Path

import pytest

from tests.conftest import BIG, CONFIGS, CONFIGURATION, ROOT
from vram_ledger.analysis.derivation.derived_files import configuration_of
from vram_ledger.analysis.formula.config import read_shapes
from vram_ledger.analysis.predicting.simulate import drawn, simulated
from vram_ledger.analysis.predicting.simulated import (
    Excess,
    Share,
    SimulatedError,
    read_simulated,
    write_simulated,
)
from vram_ledger.harness.events import Allocation, EventLog
from vram_ledger.harness.records import Kernels, Workload

STORED = sorted((ROOT / "results" / "fake-h200" / "simulated").glob("*.json"))


def shares(*pairs: tuple[int, float]) -> list[Share]:
    return [Share(growth_bytes=growth, share=share) for growth, share in pairs]


def test_bounds_are_the_range_of_the_shares_nearby() -> None:
    assert (100, 300) == Excess(shares((1000, 0.1), (1000, 0.3), (1000, 0.2))).bytes(1000)


def test_one_outlier_among_many_points_is_left_out() -> None:
    assert (100, 300) == Excess(shares((1000, 0.9), *((1000, (0.1, 0.2, 0.3)[i % 3]) for i in range(38)))).bytes(1000)


def test_far_points_do_not_count_where_there_are_enough_near_ones() -> None:
    near = [(1_000_000 + i, 0.2) for i in range(80)]
    assert (200_000, 200_000) == Excess(shares((1, 9.0), *near)).bytes(1_000_000)


def test_cache_is_empty_when_the_phase_starts() -> None:
    mib = 2**20
    fields = {"shape": (1,), "dtype": "uint8", "op": "zeros", "module": "", "source": ""}
    before = Allocation(born=0, died=1, bytes=20 * mib, **fields)  # type: ignore[arg-type]
    within = Allocation(born=2, died=None, bytes=12 * mib, **fields)  # type: ignore[arg-type]
    log = EventLog(allocations=(before, within), events=3, marks={"start": 2, "end": 3})

    class Answers:
        environment = read_simulated(STORED[0]).environment

        def log(self, workload: Workload) -> EventLog:
            return log

        def kernels(self, workload: Workload) -> Kernels:
            raise NotImplementedError

    workload = Workload(configuration=CONFIGURATION, phase="decode", context_tokens=1, batch=1)
    assert [12 * mib] == [p.reserved_bytes for p in simulated(Answers(), CONFIGURATION, [workload]).points]


def test_bounds_never_fall() -> None:
    excess = Excess(shares(*((10 * i, 0.5 / i) for i in range(1, 200))))
    found = [excess.bytes(growth) for growth in range(0, 3000, 7)]
    assert found == sorted(found)
    assert [most for _, most in found] == sorted(most for _, most in found)


def test_nothing_known_allows_for_the_growth_once_more() -> None:
    assert (0, 500) == Excess(()).bytes(500)


def test_no_growth_no_excess() -> None:
    assert (0, 0) == Excess(shares((1000, 0.1))).bytes(0)


def test_beyond_the_last_point_the_bounds_go_on_in_proportion() -> None:
    assert (200, 600) == Excess(shares((1000, 0.1), (1000, 0.3))).bytes(2000)


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_stored_points_are_in_order(path: Path, tmp_path: Path) -> None:
    own = read_simulated(path)
    for p in own.points:
        assert p.requested_bytes <= p.allocated_bytes <= p.reserved_bytes
        assert p.requested_bytes <= p.least_bytes <= p.reserved_bytes + 2**21
    write_simulated(own, tmp_path / path.name)
    assert path.read_text(encoding="utf-8") == (tmp_path / path.name).read_text(encoding="utf-8")


def test_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"schema": 99}', encoding="utf-8")
    with pytest.raises(SimulatedError, match="schema 99"):
        read_simulated(path)


def test_shapes_are_drawn_for_every_phase_and_for_real_cards() -> None:
    sizes = read_shapes(CONFIGS / "models" / f"{BIG}.json")
    workloads = list(drawn(configuration_of(BIG, "default"), sizes, 10, 5))
    assert ["prefill"] * 10 + ["decode"] * 10 == [w.phase for w in workloads]
    assert max(w.batch * w.context_tokens for w in workloads if w.phase == "prefill") < 2**20
