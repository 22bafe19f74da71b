"""What `history` says of a recorded run, in words, as JSON and as a figure, and how it ends."""

import gzip
import json
import pickle
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.invoked import Result, invoke
from tests.recorded import BASE, MIB, Card, block, entry, segment, snapshot
from vram_ledger.analysis.allocation.history import history_of
from vram_ledger.analysis.allocation.snapshot import snapshot_of
from vram_ledger.analysis.reporting.course import COLUMNS, thinned
from vram_ledger.analysis.reporting.recording import print_history


def recorded() -> Card:
    """A run with a peak, pinned and cached memory, a failure, and frames in files with odd names."""
    card = Card(capacity_bytes=120 * MIB)
    where = [{"filename": "/home/me/[x]/train.py", "line": n, "name": "<module>"} for n in range(3)]
    kept = card.alloc(3 * MIB, frames=[where[0]])
    large = card.alloc(60 * MIB - 100, frames=[where[1]])
    card.alloc(5 * MIB, frames=[where[2]])
    card.free(kept)
    card.alloc(80 * MIB)
    card.free(large)
    for number, event in enumerate(card.entries):
        event["time_us"] = 10**15 + number * 500_000
    return card


def filed(folder: Path, data: Any, name: str = "run.pickle") -> Path:
    """A snapshot as a file."""
    path = folder / name
    path.write_bytes(pickle.dumps(data))
    return path


def told(folder: Path, data: Any, *more: str) -> Result:
    """What `history` says of a snapshot."""
    return invoke("history", filed(folder, data), *more)


def test_a_run_is_told_in_words(tmp_path: Path) -> None:
    done = told(tmp_path, recorded().snapshot())
    text = " ".join(done.stdout.split())
    assert (0, "") == (done.exit_code, done.stderr)
    for part in (
        "run.pickle: device 0, 10 events in 4.500 s, from the first allocation on",
        "peak allocated 71,303,168 0.07 0.07 event 4, after 2.000 s",
        "peak reserved 83,886,080 0.08 0.08 event 3, after 1.500 s",
        "unusable, large pool 12,582,912 17,825,792 15,728,640",
        "62,914,560 88.2% 1 [x]/train.py:1 <module>",
        "unusable at the reserved peak 17.8 MB (17.0 MiB), 21.2%, in 1 segment, the largest 17.8 MB (17.0 MiB); at the "
        "end 15.7 MB (15.0 MiB), 18.8%, in 1 segment, the largest 12.6 MB (12.0 MiB).",
        "cached at the reserved peak 0 B, at the end 62.9 MB (60.0 MiB): segments that are free as a whole.",
        "last straw the segment that made the reserved peak, 62.9 MB (60.0 MiB), was for a request of 62,914,460 B; "
        "the largest free block of its pool had 17,825,792 B.",
        "no memory at event 7: 83.9 MB (80.0 MiB) asked for, 41.9 MB (40.0 MiB) free on the card, 15.7 MB (15.0 MiB) "
        "reserved but not allocated.",
        "otherwise with expandable_segments:True the same requests would have reserved 83.9 MB (80.0 MiB) at the peak, "
        "as much.",
        "rules the default rules give the address of 3 allocations and 2 segment events, 0 B off",
        "exit 0: the rules give every address and segment",
    ):
        assert part in text


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width: int, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with path.open("w", encoding="utf-8") as file:
        print_history(
            history_of(snapshot_of(recorded().snapshot(), "s")), "run.pickle", Console(file=file, width=width), 9
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    assert max(len(line) for line in lines) <= width
    assert not [line for line in lines if "…" in line]


def test_a_run_that_was_recorded_from_its_middle_says_what_was_there(tmp_path: Path) -> None:
    done = told(tmp_path, recorded().snapshot(2))
    text = " ".join(done.stdout.split())
    assert "from mid-run on: 1 block of 3.1 MB (3.0 MiB) in 21.0 MB (20.0 MiB) reserved were there before it" in text
    assert "3,145,728 4.4% 1 (made before the recording)" in text


def test_a_file_without_events_is_told_as_one_moment(tmp_path: Path) -> None:
    card = recorded()
    done = told(tmp_path, card.snapshot(len(card.entries)))
    assert (0, True) == (done.exit_code, "device 0, 0 events: only the memory at one moment" in done.stdout)


def test_frames_beyond_the_listed_ones_are_summed_up(tmp_path: Path) -> None:
    text = " ".join(told(tmp_path, recorded().snapshot(), "--top", "1").stdout.split())
    assert "8,388,608 11.8% 2 2 more frames" in text


def test_a_recording_with_which_the_rules_part_ends_with_1_and_its_own_figures(tmp_path: Path) -> None:
    entries = [entry("segment_alloc", BASE, 32 * MIB), entry("alloc", BASE, 3 * MIB)]
    done = told(tmp_path, snapshot(entries, [segment(BASE, block(3 * MIB, 3 * MIB), block(29 * MIB))]))
    text = " ".join(done.stdout.split())
    assert 1 == done.exit_code
    assert "at event 1: it took 1 segment of 33,554,432 B, by the rules it would be 1 segment of 20,971,520 B." in text
    assert "peak reserved 33,554,432" in text
    assert "exit 1: the rules part with the recording" in text


def test_a_recording_of_two_streams_is_told_without_the_rules(tmp_path: Path) -> None:
    data = recorded().snapshot()
    data["segments"][0]["stream"] = 7
    done = told(tmp_path, data)
    text = " ".join(done.stdout.split())
    assert 0 == done.exit_code
    assert "rules not asked. The recording has 2 streams, which do not share blocks;" in text
    assert "exit 0: told; the rules were not asked" in text


def test_json_has_every_figure(tmp_path: Path) -> None:
    done = told(tmp_path, recorded().snapshot(), "--json")
    data = json.loads(done.stdout)
    assert (4, 71_303_168, 80 * MIB) == (
        data["allocated_peak"]["event"],
        data["allocated_peak"]["made"]["allocated_bytes"],
        data["reserved_peak"]["made"]["reserved_bytes"],
    )
    assert (68 * MIB, 12 * MIB, 80 * MIB, False) == tuple(
        data[name] for name in ("least_reserved_bytes", "most_saved_bytes", "otherwise_reserved_bytes", "expandable")
    )
    assert ("reproduced", 3, 2) == tuple(data["rules"][name] for name in ("kind", "allocations", "segment_events"))
    assert not {"numbers", "allocated", "reserved"} & set(data)


def test_figure_is_an_svg_that_names_its_peaks(tmp_path: Path) -> None:
    file = tmp_path / "out" / "f.svg"
    done = told(tmp_path, recorded().snapshot(), "--figure", str(file))
    assert (0, True) == (done.exit_code, f"wrote {file}" in done.stdout)
    text = file.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    words = "".join(root.itertext())
    for part in (
        "0.07 GB",
        "0.08 GB",
        "allocated",
        "reserved",
        "run.pickle",
        "allocated from 0.00 to 0.01 GB, at most 0.07",
    ):
        assert part in words
    assert "make report" not in text


def test_figure_of_many_events_keeps_every_extreme() -> None:
    values = [7] * 100_000
    values[41_234], values[77_777] = 99, 1
    points = thinned(range(100_000), values)
    assert len(points) <= 4 * COLUMNS
    assert {(41_234, 99), (77_777, 1), (0, 7), (99_999, 7)} <= set(points)


@pytest.mark.parametrize("events", [0, 1])
def test_figure_of_next_to_nothing_is_drawn(events: int, tmp_path: Path) -> None:
    data = snapshot([entry("snapshot", 0, 0)] * events, [])
    assert 0 == told(tmp_path, data, "--figure", str(tmp_path / "f.svg")).exit_code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.pickle",), "nowhere.pickle: no such file; FILE is a memory snapshot"),
        ((".",), ".: a folder; FILE is a memory snapshot"),
        (("run.pickle", "--device", "3"), "nothing of device 3 in it; it has device 0"),
        (("run.pickle", "--top", "0"), "Invalid value for '--top'"),
        (("cut.gz",), "cut.gz: not a whole gzip file"),
        (("run.pickle", "--figure", "run.pickle/f.svg"), "Not a directory"),
        ((), "Missing argument"),
    ],
)
def test_mistake_is_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filed(tmp_path, recorded().snapshot())
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"{}")[:-4])
    monkeypatch.chdir(tmp_path)
    done = invoke("history", *arguments)
    assert (2, "") == (done.exit_code, done.stdout)
    assert said in done.stderr
    assert done.stderr.startswith("exit 2: bad input: ")
