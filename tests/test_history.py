"""Recorded runs, made by hand, at random and by the real allocator: told to the byte, and held against the rules."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NANO, ROOT
from tests.recorded import BASE, MIB, SETTINGS, Card, block, entry, random_card, segment, snapshot
from vram_ledger.analysis.allocation.frames import BACKWARD, source_of
from vram_ledger.analysis.allocation.history import (
    EARLIER,
    Alive,
    History,
    LastStraw,
    Parted,
    Refusal,
    Reproduced,
    SetAside,
    history_of,
)
from vram_ledger.analysis.allocation.plain import SnapshotError
from vram_ledger.analysis.allocation.snapshot import read_snapshot, snapshot_of


def history(data: dict[str, Any], device: int | None = None) -> History:
    """The run that a snapshot tells."""
    return history_of(snapshot_of(data, "s", device))


def why_refused(data: Any, device: int | None = None) -> str:
    """Why a snapshot is refused."""
    with pytest.raises(SnapshotError) as why:
        history_of(snapshot_of(data, "s", device))
    return str(why.value)


def card_of_all_kinds() -> Card:
    """Two large segments and a small one; the first large one is given back for a request that the driver refuses."""
    card = Card(capacity_bytes=60 * MIB)
    first, second = card.alloc(3 * MIB), card.alloc(5 * MIB - 100)
    card.alloc(13 * MIB)
    card.free(first)
    card.free(second)
    card.alloc(700)
    card.alloc(40 * MIB)
    card.alloc(15 * MIB)
    return card


def test_a_recording_is_told_to_the_byte() -> None:
    told = history(card_of_all_kinds().snapshot())
    assert (0, 15, False, 0) == (told.device, told.events, told.begins_in_midrun, told.unsure_bytes)
    peak = told.allocated_peak
    assert (13, 53 * MIB + 700, 324 + MIB) == (peak.event, peak.made.requested_bytes, peak.made.rounding_bytes)
    assert (2 * MIB - 1024, 56 * MIB) == (peak.made.unusable_bytes, peak.made.reserved_bytes)
    assert (Alive(frame="", bytes=54 * MIB + 1024, blocks=3),) == peak.alive
    assert (Refusal(event=14, requested_bytes=15 * MIB, free_bytes=4 * MIB),) == told.refusals
    assert LastStraw(requested_bytes=40 * MIB, segment_bytes=40 * MIB, largest_free_bytes=0) == told.last_straw


def test_a_retry_and_a_failure_are_replayed_by_the_rules() -> None:
    rules = history(card_of_all_kinds().snapshot()).rules
    assert isinstance(rules, Reproduced)
    assert (4 + 1, 5, 56 * MIB) == (rules.allocations, rules.segment_events, rules.held.reserved_bytes)


def test_parts_of_reserved_memory_add_up_at_every_moment() -> None:
    card = Card()
    one, two, three = card.alloc(12 * MIB), card.alloc(3 * MIB), card.alloc(900)
    card.alloc(2 * MIB + 1)
    for number in (one, two, three):
        card.free(number)
    made = history(card.snapshot()).end.made
    assert (2 * MIB + 1, 511) == (made.requested_bytes, made.rounding_bytes)
    assert (18 * MIB - 512, 0, 1, 15 * MIB - 512) == (
        made.pinned_large_bytes,
        made.pinned_small_bytes,
        made.pinned_segments,
        made.largest_pinned_bytes,
    )
    assert (14 * MIB, 34 * MIB) == (made.cached_bytes, made.reserved_bytes)


def randomly(seed: int) -> Card:
    """A random run on a small card."""
    return random_card(seed, 200, 48 * MIB)


def test_random_runs_have_every_kind_of_event() -> None:
    actions = {e["action"] for seed in range(8) for e in randomly(seed).entries}
    assert {"alloc", "free_requested", "free_completed", "segment_alloc", "segment_free", "oom"} == actions


@pytest.mark.parametrize("seed", range(8))
def test_a_run_is_the_same_from_whichever_event_the_recording_begins(seed: int) -> None:
    card = randomly(seed)
    whole = history(card.snapshot())
    assert isinstance(whole.rules, Reproduced)
    after = {n: (a, r) for n, a, r in zip(whole.numbers, whole.allocated, whole.reserved, strict=True)}
    for skipped in range(1, len(card.entries) + 1, 5):
        told = history(card.snapshot(skipped))
        assert isinstance(told.rules, Reproduced), (skipped, told.rules)
        assert whole.end.made == told.end.made
        assert [after[n + skipped][1] for n in told.numbers] == list(told.reserved)
        true = [after[n + skipped][0] for n in told.numbers]
        assert max(told.allocated) <= max(true) <= max(told.allocated) + told.unsure_bytes
        assert told.unsure_bytes or max(true) == max(told.allocated)


def test_only_the_end_is_known_of_a_file_without_events() -> None:
    card = random_card(3, 100)
    told, whole = history(card.snapshot(len(card.entries))), history(card.snapshot())
    assert (0, None, whole.end.made) == (told.events, told.allocated_peak.event, told.end.made)
    assert told.start == told.end == told.reserved_peak
    assert isinstance(told.rules, Reproduced)


def kept_rest() -> tuple[Card, int, int]:
    """A block of 3.5 MiB that keeps a rest of 0.5, and its neighbour."""
    card = Card()
    first, neighbour = card.alloc(4 * MIB), card.alloc(5 * MIB)
    card.alloc(9 * MIB)
    card.free(first)
    return card, card.alloc(7 * MIB // 2), neighbour


def test_rest_that_a_block_kept_is_found_by_where_its_neighbour_began() -> None:
    card, keeper, neighbour = kept_rest()
    begun = len(card.entries)
    card.free(neighbour)
    card.free(keeper)
    told = history(card.snapshot(begun))
    assert (18 * MIB, MIB // 2, 0) == (told.allocated[0], told.start.made.rounding_bytes, told.unsure_bytes)


def test_rest_of_which_there_is_no_trace_is_said_to_be_unsure() -> None:
    card, keeper, neighbour = kept_rest()
    card.free(neighbour)
    begun = len(card.entries)
    card.free(keeper)
    told = history(card.snapshot(begun))
    assert (25 * MIB // 2, MIB) == (told.allocated[0], told.unsure_bytes)
    assert told.allocated[0] <= 13 * MIB <= told.allocated[0] + told.unsure_bytes


PENDING = snapshot(
    [
        entry("segment_alloc", BASE, 20 * MIB),
        entry("alloc", BASE, 3 * MIB),
        entry("alloc", BASE + 3 * MIB, 4 * MIB),
        entry("free_requested", BASE, 3 * MIB),
        entry("free_requested", BASE + 3 * MIB, 4 * MIB),
        entry("free_completed", BASE + 3 * MIB, 4 * MIB),
    ],
    [segment(BASE, block(3 * MIB, 3 * MIB, "active_pending_free"), block(17 * MIB))],
)


def test_memory_that_another_stream_still_uses_is_reserved_but_not_allocated() -> None:
    told = history(PENDING)
    assert (0, 0, 3 * MIB, 7 * MIB, 3 * MIB, 0) == told.allocated[:1] + told.allocated[1:2] + told.allocated[2:3] + (
        told.allocated[3],
        told.end.made.pending_bytes,
        told.end.made.allocated_bytes,
    )
    assert isinstance(told.rules, Reproduced)
    late = PENDING | {"device_traces": [PENDING["device_traces"][0][5:]]}
    assert (7 * MIB, 0) == (history(late).start.made.pending_bytes, history(late).start.made.allocated_bytes)


def framed(file: str, line: int = 7, name: str = "f") -> dict[str, Any]:
    """A frame of a stack."""
    return {"filename": file, "line": line, "name": name}


def test_what_was_alive_at_the_peak_is_told_by_frame() -> None:
    card = Card()
    before = card.alloc(5 * MIB, frames=[framed("/x/early.py")])
    begun = len(card.entries)
    inner = framed("/v/lib/python3.11/site-packages/torch/nn/functional.py")
    for size in (2 * MIB, 6 * MIB):
        card.alloc(size, frames=[framed("??"), inner, framed("/home/me/run/train.py", 12, "step"), framed("/x/y.py")])
    card.alloc(3 * MIB)
    card.free(before)
    assert (
        Alive(frame="run/train.py:12 step", bytes=8 * MIB, blocks=2),
        Alive(frame=EARLIER, bytes=5 * MIB, blocks=1),
        Alive(frame="", bytes=3 * MIB, blocks=1),
    ) == history(card.snapshot(begun)).allocated_peak.alive


@pytest.mark.parametrize(
    ("frames", "source"),
    [
        (None, ""),
        ([], ""),
        ([framed("??", 0, "operator new")], "(no Python frame)"),
        (
            [framed("a.cpp", 0, "torch::autograd::Engine::evaluate_function()")],
            BACKWARD,
        ),
        (
            [framed("/v/site-packages/torch/nn/a.py"), framed("/v/site-packages/torchvision/m.py")],
            "torchvision/m.py:7 f",
        ),
        ([framed("/v/site-packages/torch/nn/a.py"), framed("x.cpp")], "nn/a.py:7 f"),
        ([framed("torch/_tensor.py"), framed("transformers/models/m.py")], "models/m.py:7 f"),
        ([framed("/src/pytorch/torch/optim/adam.py"), framed("<stdin>", 1, "<module>")], "<stdin>:1 <module>"),
        ([framed("<frozen runpy>"), framed("/home/torch/train.py")], "torch/train.py:7 f"),
        ([framed("C:\\v\\site-packages\\torch\\a.py"), framed("C:\\me\\t.py")], "me/t.py:7 f"),
        (["text", {"filename": 3}, framed("t.py")], "t.py:7 f"),
    ],
)
def test_source_of_a_stack_is_its_innermost_line_outside_torch(frames: Any, source: str) -> None:
    assert source == source_of(frames)


def test_time_is_told_where_the_recording_has_a_clock() -> None:
    data = card_of_all_kinds().snapshot()
    for number, event in enumerate(data["device_traces"][0]):
        event["time_us"] = 1_700_000_000_000_000 + number * 250_000
    told = history(data)
    assert (3.5, 3.25) == (told.duration_s, told.allocated_peak.time_s)


@pytest.mark.parametrize("action", ["snapshot", "annotate", "user_defined"])
def test_events_that_move_no_memory_are_counted_only(action: str) -> None:
    data = card_of_all_kinds().snapshot()
    data["device_traces"][0].insert(4, {"action": action})
    told = history(data)
    assert (16, 14, Reproduced) == (told.events, told.allocated_peak.event, type(told.rules))


# ---- where the rules and the recording part ----


def parted(entries: list[dict[str, Any]], *segments: dict[str, Any]) -> Parted:
    """Where the rules part with a recording, of which all figures are told all the same."""
    told = history(snapshot(entries, segments))
    assert sum(s["total_size"] for s in segments) == told.end.made.reserved_bytes
    assert isinstance(told.rules, Parted)
    return told.rules


def test_a_segment_of_another_size_is_where_they_part() -> None:
    entries = [entry("segment_alloc", BASE, 32 * MIB), entry("alloc", BASE, 3 * MIB)]
    rules = parted(entries, segment(BASE, block(3 * MIB, 3 * MIB), block(29 * MIB)))
    assert (1, ((BASE, 32 * MIB),), 20 * MIB) == (rules.event, rules.recorded_segments, rules.expected_segments[0][1])


def test_a_block_elsewhere_is_where_they_part() -> None:
    low, high = BASE, BASE + 64 * MIB
    before = [segment(low, block(12 * MIB)), segment(high, block(14 * MIB))]
    assert history(snapshot([], before)).end.made.cached_bytes == 26 * MIB
    after = [segment(low, block(12 * MIB)), segment(high, block(11 * MIB, 11 * MIB), block(3 * MIB))]
    rules = parted([entry("snapshot", 0, 0), entry("alloc", high, 11 * MIB)], *after)
    assert (1, high, low) == (rules.event, rules.recorded_address, rules.expected_address)


def test_a_segment_that_was_kept_is_where_they_part() -> None:
    entries = [entry("segment_free", BASE, 10 * MIB)]
    rules = parted(entries, segment(BASE + 10 * MIB, block(10 * MIB)))
    assert (0, 1, 2, None) == (
        rules.event,
        len(rules.recorded_segments),
        len(rules.expected_segments),
        rules.recorded_address,
    )


def test_a_segment_that_nothing_needed_is_where_they_part() -> None:
    entries = [entry("segment_alloc", BASE, 20 * MIB), entry("alloc", BASE, 3 * MIB)]
    cached = segment(BASE + 64 * MIB, block(12 * MIB))
    rules = parted(entries, segment(BASE, block(3 * MIB, 3 * MIB), block(17 * MIB)), cached)
    assert (1, ()) == (rules.event, rules.expected_segments)


def test_equal_free_blocks_are_told_apart_by_the_recorded_addresses() -> None:
    high, low = BASE + 10 * MIB, BASE
    entries = [
        entry("segment_alloc", high, 10 * MIB),
        entry("alloc", high, 10 * MIB),
        entry("segment_alloc", low, 10 * MIB),
        entry("alloc", low, 10 * MIB),
        *(entry(f"free_{how}", at, 10 * MIB) for at in (high, low) for how in ("requested", "completed")),
        entry("alloc", low, 10 * MIB),
    ]
    told = history(snapshot(entries, [segment(low, block(10 * MIB, 10 * MIB)), segment(high, block(10 * MIB))]))
    assert isinstance(told.rules, Reproduced)


# ---- what is not modelled ----


def changed(**more: Any) -> dict[str, Any]:
    """A whole recording whose second segment, with its events, has these fields."""
    data = card_of_all_kinds().snapshot()
    kept = {s["address"]: s for s in data["segments"]}
    kept[min(kept)] |= more
    return data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (changed(stream=7), "2 streams"),
        (changed(segment_pool_id=[0, 1]), "1 private pools of CUDA graphs"),
        (card_of_all_kinds().snapshot(garbage_collection_threshold=0.8), "garbage_collection_threshold=0.8"),
        (
            card_of_all_kinds().snapshot(
                PYTORCH_CUDA_ALLOC_CONF="garbage_collection_threshold:0.8", garbage_collection_threshold=0.8
            ),
            "garbage_collection_threshold=0.8",
        ),
    ],
    ids=["streams", "pools", "garbage collection", "by the variable"],
)
def test_what_the_rules_do_not_know_is_set_aside_and_the_figures_stand(data: dict[str, Any], reason: str) -> None:
    told = history(data)
    assert isinstance(told.rules, SetAside)
    assert [reason] == [r[: len(reason)] for r in told.rules.reasons]
    assert history(card_of_all_kinds().snapshot()).allocated_peak == told.allocated_peak


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_split_size": 200 * MIB}, "setting max_split_size=209715200 is not modelled"),
        ({"roundup_power2_divisions": {"1": 0, "256": 4}}, "roundup_power2_divisions=dict is not modelled"),
        ({"roundup_power2_divisions": "{'1': 0, '2': 8}"}, "is not modelled"),
        ({"roundup_power2_divisions": "{'1': "}, "is not modelled"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}, "setting backend:cudaMallocAsync is not modelled"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "pinned_reserve_segment_size_mb:4,max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"a_new_one": 3}, "setting a_new_one=3 is not modelled"),
    ],
)
def test_setting_that_changes_sizes_is_refused_by_name(settings: dict[str, Any], said: str) -> None:
    assert said in why_refused(card_of_all_kinds().snapshot(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False,pinned_use_background_threads:True"},
        {"roundup_power2_divisions": str(SETTINGS["roundup_power2_divisions"])},
        {"pinned_num_register_threads": 8, "max_cached_size": -1, "a_new_one": 0},
    ],
)
def test_setting_that_changes_nothing_is_no_obstacle(settings: dict[str, Any]) -> None:
    assert isinstance(history(card_of_all_kinds().snapshot(**settings)).rules, Reproduced)


MAPPED = snapshot(
    [
        entry("segment_map", BASE, 20 * MIB),
        entry("alloc", BASE, 15 * MIB),
        entry("segment_map", BASE + 20 * MIB, 20 * MIB),
        entry("alloc", BASE + 15 * MIB, 22 * MIB - 100),
        entry("free_requested", BASE + 15 * MIB, 22 * MIB - 100),
        entry("free_completed", BASE + 15 * MIB, 22 * MIB - 100),
        entry("segment_unmap", BASE + 20 * MIB, 20 * MIB),
    ],
    [segment(BASE, block(15 * MIB, 15 * MIB), block(5 * MIB), is_expandable=True)],
    expandable_segments=True,
)


@pytest.mark.parametrize("skipped", range(8))
def test_stretches_of_expandable_segments_join_and_part(skipped: int) -> None:
    told = history(MAPPED | {"device_traces": [MAPPED["device_traces"][0][skipped:]]})
    assert (True, Reproduced) == (told.expandable, type(told.rules))
    assert (0, 20, 20, 40, 40, 40, 40, 20)[skipped:] == tuple(size // MIB for size in told.reserved)
    assert (0, 0, 15, 15, 37, 15, 15, 15)[skipped:] == tuple(round(size / MIB) for size in told.allocated)
    assert (5 * MIB, 0) == (told.end.made.pinned_large_bytes, told.end.made.cached_bytes)


def test_whole_pieces_of_an_expandable_segment_are_cached_and_the_rest_of_a_free_block_is_not() -> None:
    told = history(MAPPED | {"device_traces": [MAPPED["device_traces"][0][6:]]})
    assert (20 * MIB, 5 * MIB) == (told.start.made.cached_bytes, told.start.made.unusable_bytes)


@pytest.mark.parametrize(
    "data",
    [
        changed(is_expandable=True),
        snapshot([entry("segment_map", BASE, 2 * MIB)], []),
        card_of_all_kinds().snapshot(expandable_segments=True),
        MAPPED | {"device_traces": [[entry("segment_free", BASE + 99 * MIB, 20 * MIB)]]},
    ],
)
def test_setting_that_was_switched_on_the_way_is_refused(data: dict[str, Any]) -> None:
    assert "expandable_segments was switched on or off on its way" in why_refused(data)


def test_what_the_other_setting_would_have_reserved_is_known_of_a_whole_run() -> None:
    card = Card()
    for size in (11 * MIB, 12 * MIB, 13 * MIB):
        card.free(card.alloc(size))
    told = history(card.snapshot())
    assert (26 * MIB, 20 * MIB) == (told.reserved_peak.made.reserved_bytes, told.otherwise_reserved_bytes)
    assert (14 * MIB, 12 * MIB) == (told.least_reserved_bytes, told.most_saved_bytes)
    assert history(card.snapshot(1)).otherwise_reserved_bytes is None
    assert 38 * MIB == history(MAPPED).otherwise_reserved_bytes


@pytest.mark.parametrize(("clear", "otherwise"), [(True, 82 * MIB), (False, None)])
def test_what_would_have_been_reserved_is_open_where_it_matters_who_gave_the_cache_back(
    clear: bool, otherwise: int | None
) -> None:
    card = Card()
    card.alloc(900)
    first = card.alloc(30 * MIB)
    card.alloc(11 * MIB)
    card.free(first)
    card.empty_cache()
    if clear:
        card.alloc(900)
    card.alloc(45 * MIB)
    assert otherwise == history(card.snapshot()).otherwise_reserved_bytes


def on_devices(*devices: int) -> dict[str, Any]:
    """A recording in which each of these devices did the same."""
    data = card_of_all_kinds().snapshot()
    trace, segments = data["device_traces"][0], data["segments"]
    data["device_traces"] = [trace if d in devices else [] for d in range(4)]
    data["segments"] = [s | {"device": d} for d in devices for s in segments]
    return data


def test_of_several_devices_one_must_be_chosen() -> None:
    assert "it has devices 0, 2; choose one: DEVICE=0, --device 0" in why_refused(on_devices(0, 2))
    assert (2, Reproduced) == ((told := history(on_devices(0, 2), 2)).device, type(told.rules))
    assert (3, 15) == ((told := history(on_devices(3))).device, told.events)
    assert "nothing of device 1 in it; it has device 0, 2" in why_refused(on_devices(0, 2), 1)


def test_the_only_device_with_events_is_chosen_and_the_others_segments_are_not_its_own() -> None:
    data = on_devices(0, 1)
    data["device_traces"][0] = []
    told = history(data)
    assert (1, 56 * MIB, Reproduced) == (told.device, told.end.made.reserved_bytes, type(told.rules))


# ---- what is no snapshot, or contradicts itself ----


def broken(path: list[Any], value: Any) -> dict[str, Any]:
    """A recording in which one place has another value."""
    data = json.loads(json.dumps(card_of_all_kinds().snapshot()))
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return data  # type: ignore[no-any-return]


TRACE = ["device_traces", 0]
BLOCK = ["segments", 0, "blocks", 0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], 'no snapshot: it has no lists "segments" and "device_traces"; docs/recordings.md'),
        ({"segments": []}, "no snapshot"),
        (broken(["device_traces", 0], {}), "device_traces[0] is not a list"),
        (broken([*TRACE, 2], "x"), "device_traces[0][2]: not a dictionary"),
        (broken([*TRACE, 2, "action"], "realloc"), "device_traces[0][2]: action is 'realloc', not one of alloc,"),
        (broken([*TRACE, 2, "addr"], "0x7f"), "device_traces[0][2]: addr is '0x7f', not a whole number"),
        (broken([*TRACE, 2, "size"], True), "device_traces[0][2]: size is True, not a whole number"),
        (broken([*TRACE, 2, "size"], 0), "device_traces[0][2]: alloc of 0 bytes"),
        (broken([*TRACE, 2, "size"], -5), "device_traces[0][2]: size is -5"),
        (broken([*TRACE, 2, "addr"], 2**60), "device_traces[0][2]: addr is 1152921504606846976"),
        (broken([*TRACE, 2, "stream"], None), "device_traces[0][2]: stream is None"),
        (broken([*TRACE, 2, "pool_id"], 3), "device_traces[0][2]: pool_id is 3, not the id of a pool"),
        (broken(["segments", 0], 3), "segments[0]: not a dictionary"),
        (broken(["segments", 0, "blocks"], None), "segments[0]: blocks is None, not a list"),
        (broken(["segments", 0, "total_size"], 15 * MIB), "segments[0]: its blocks do not add up"),
        (broken(["segments", 0, "allocated_size"], 0), "segments[0]: its blocks do not add up"),
        (broken(["segments", 0, "segment_type"], "huge"), "segment_type is 'huge', not one of small, large"),
        (broken(["segments", 1, "address"], BASE + 30 * MIB), "segments[1].blocks[0]: begins at"),
        (broken([*BLOCK, "state"], "lost"), "segments[0].blocks[0]: state is 'lost'"),
        (broken([*BLOCK, "requested_size"], 99 * MIB), "and 103809024 of them requested"),
        (broken([*BLOCK, "size"], 14 * MIB + 1), "segments[0].blocks[0]: 14680065 bytes"),
        (broken(["allocator_settings"], [1]), "allocator_settings is not a dictionary"),
        (
            snapshot([], [segment(BASE, block(20 * MIB)), segment(BASE + 10 * MIB, block(20 * MIB))]),
            "the segments at 0x7f0000000000 and 0x7f0000a00000 overlap",
        ),
    ],
)
def test_what_is_not_as_torch_writes_it_is_refused_with_its_place(data: Any, said: str) -> None:
    assert said in why_refused(data)


ONE = segment(BASE, block(3 * MIB, 3 * MIB), block(17 * MIB))
TAKEN = [entry("segment_alloc", BASE, 20 * MIB), entry("alloc", BASE, 3 * MIB)]


@pytest.mark.parametrize(
    ("entries", "segments", "said"),
    [
        (TAKEN, [], "event 1, alloc of 3,145,728 B at 0x7f0000000000: nothing alive is there"),
        ([TAKEN[0], entry("alloc", BASE, 2 * MIB)], [ONE], "event 1, .*: a block of 3145728 B is there"),
        (TAKEN[1:] + TAKEN[:1], [ONE], "event 1, segment_alloc .*: there is no segment of this size that is free"),
        ([entry("free_completed", BASE, 3 * MIB)], [ONE], "event 0, .*: what was freed there is not free afterwards"),
        ([entry("free_requested", BASE, 3 * MIB)], [ONE], "event 0, .*: it is not freed afterwards"),
        ([entry("segment_free", BASE + 4 * MIB, 20 * MIB)], [ONE], "event 0, .*: a segment is there already"),
        ([entry("segment_free", BASE - 4 * MIB, 20 * MIB)], [ONE], "event 0, .*: a segment is there already"),
        (
            [TAKEN[0], entry("alloc", BASE + MIB, 3 * MIB)],
            [segment(BASE, block(MIB), block(3 * MIB, 3 * MIB), block(16 * MIB))],
            "event 1, .*: no free block begins there that is large enough",
        ),
        (
            TAKEN,
            [segment(BASE, block(20 * MIB, 3 * MIB))],
            "the blocks do not follow the default rules, .*: segment 0x7f0000000000",
        ),
        (
            [entry("free_completed", BASE + MIB, 3 * MIB)],
            [segment(BASE, block(20 * MIB))],
            "event 0, .*: before it lie 1048576 B that no block can be",
        ),
    ],
)
def test_events_and_segments_that_contradict_each_other_are_refused(
    entries: list[dict[str, Any]], segments: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(SnapshotError, match=said):
        history(snapshot(entries, segments))


# ---- the real allocator ----


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, int]]]:
    """What torch dumped of a training on an emulated card, and its own counters, by when the recording begins."""
    found = {}
    for how in ("whole", "late", "last", "late expandable", "last expandable", "plain", "plain expandable"):
        file = tmp_path_factory.mktemp("dumped") / "s.pickle"
        setting = f"PYTORCH_CUDA_ALLOC_CONF=expandable_segments:{how.endswith('expandable')}"
        program = ["env", setting, sys.executable, str(ROOT / "tests/programs/recorded.py"), str(file), how.split()[0]]
        command = [sys.executable, "-m", "vram_ledger", "emulate", "--card", "rtx-4090", "--", *program]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found[how] = file, json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("how", ["whole", "late", "last", "late expandable", "last expandable"])
def test_snapshot_of_the_real_allocator_is_reproduced_from_wherever_it_begins(
    dumped: dict[str, tuple[Path, dict[str, int]]], how: str
) -> None:
    file, counters = dumped[how]
    told = history_of(read_snapshot(file))
    assert (how != "whole", Reproduced) == (told.begins_in_midrun, type(told.rules))
    assert told.expandable is how.endswith("expandable")
    assert counters == {
        "max_memory_allocated": told.allocated_peak.made.allocated_bytes,
        "max_memory_reserved": told.reserved_peak.made.reserved_bytes,
        "memory_allocated": told.end.made.allocated_bytes,
        "memory_reserved": told.end.made.reserved_bytes,
    }
    assert 1 == len(told.refusals)
    assert "programs/recorded.py:23 fill_the_card" == told.allocated_peak.alive[0].frame


def test_the_same_run_with_expandable_segments_reserves_what_was_said_without_and_the_other_way_round(
    dumped: dict[str, tuple[Path, dict[str, int]]],
) -> None:
    without, expandable = (history_of(read_snapshot(dumped[how][0])) for how in ("plain", "plain expandable"))
    assert without.reserved_peak.made.reserved_bytes == expandable.otherwise_reserved_bytes
    assert expandable.reserved_peak.made.reserved_bytes == without.otherwise_reserved_bytes
    assert without.otherwise_reserved_bytes != expandable.otherwise_reserved_bytes


@pytest.mark.parametrize("gpu", ["a100-80gb", "h100"])
def test_rules_give_every_address_of_a_model_s_run(tmp_path: Path, gpu: str) -> None:
    file = tmp_path / "history.json"
    command = ["record", "--emulate", gpu, "--model", NANO, "--phase", "prefill", "--context", "1000", "--batch", "2"]
    subprocess.run([sys.executable, "-m", "vram_ledger", *command, "--out", str(file)], cwd=ROOT, check=True)
    told = history_of(read_snapshot(file))
    assert isinstance(told.rules, Reproduced), told.rules
    assert told.rules.allocations > 2500
    assert any("modeling_qwen3_5.py" in own.frame for own in told.allocated_peak.alive)
