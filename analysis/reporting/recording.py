"""A recorded run in words, as JSON, and as tables for a terminal."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vram_ledger.analysis.allocation.history import Alive, History, Moment, Parted, Reproduced, SetAside
from vram_ledger.analysis.allocation.space import Made
from vram_ledger.analysis.ground.cards import sizes_text
from vram_ledger.harness.records import encode

SERIES = ("numbers", "allocated", "reserved")
KINDS = {Reproduced: "reproduced", Parted: "parted", SetAside: "set aside"}
ENDS = {
    Reproduced: "the rules give every address and segment",
    Parted: "the rules part with the recording",
    SetAside: "told; the rules were not asked",
}
NO_FRAME = "(no frame recorded)"
# Rows of what reserved memory is made of, and the part of :class:`Made` that each is.
PARTS = {
    "requested by the program": "requested_bytes",
    "rounding of blocks": "rounding_bytes",
    "freed, used by a stream": "pending_bytes",
    "unusable, large pool": "pinned_large_bytes",
    "unusable, small pool": "pinned_small_bytes",
    "cached, whole segments": "cached_bytes",
    "reserved": "reserved_bytes",
}


def history_json(history: History) -> dict[str, Any]:
    """The run as JSON: all but the course of the counters."""
    found: dict[str, Any] = encode(history)
    for name in SERIES:
        del found[name]
    for name in ("start", "allocated_peak", "reserved_peak", "end"):
        made: Made = getattr(history, name).made
        sums = {n: getattr(made, n) for n in ("allocated_bytes", "unusable_bytes", "reserved_bytes")}
        found[name]["made"] |= sums
    found["rules"] = {"kind": KINDS[type(history.rules)], **found["rules"]}
    return found | {"most_saved_bytes": history.most_saved_bytes}


def print_history(history: History, name: str, out: Console, top: int) -> None:
    """Prints a run for people. top: how many frames are listed."""
    out.print(f"{name}: {what_it_is(history)}", markup=False)
    out.print()
    out.print(_peaks(history))
    out.print()
    out.print("What reserved memory is made of, in bytes:", markup=False)
    out.print(_parts(history))
    out.print()
    out.print("Alive at the allocated peak, by the innermost frame outside torch:", markup=False)
    out.print(_alive(history.allocated_peak, top))
    out.print()
    words = Table.grid(padding=(0, 2))
    for topic, sentence in told(history):
        words.add_row(topic, Text(sentence))
    out.print(words)


def told(history: History) -> Iterator[tuple[str, str]]:
    """What there is to say of a run: a topic, and sentences on it."""
    peak, end = history.reserved_peak.made, history.end.made
    if history.unsure_bytes:
        yield (
            "not sure",
            f"the allocated peak may be up to {history.unsure_bytes:,} B higher: of large blocks that were made before "
            "the recording and freed in it, there is not always a trace of the rest, up to 1 MiB, that they kept.",
        )
    if peak.unusable_bytes or end.unusable_bytes:
        yield (
            "unusable",
            f"at the reserved peak {_pinned(peak)}; at the end {_pinned(end)}. These are free blocks in segments that "
            "a live block keeps from the driver, of use only to what fits into one of them.",
        )
    if peak.cached_bytes or end.cached_bytes:
        what = "pieces of segments" if history.expandable else "segments"
        yield (
            "cached",
            f"at the reserved peak {size_text(peak.cached_bytes)}, at the end {size_text(end.cached_bytes)}: {what} "
            "that are free as a whole. A request takes one if it fits; empty_cache, or a request that the driver "
            "refuses, gives them back.",
        )
    if straw := history.last_straw:
        yield (
            "last straw",
            f"the segment that made the reserved peak, {size_text(straw.segment_bytes)}, was for a request of "
            f"{straw.requested_bytes:,} B; the largest free block of its pool had {straw.largest_free_bytes:,} B.",
        )
    yield from (("no memory", sentence) for sentence in _refused(history))
    yield "otherwise", saving_words(history)
    yield "rules", rules_words(history)


def what_it_is(history: History) -> str:
    """What a recording covers."""
    lasted = f" in {history.duration_s:,.3f} s" if history.duration_s is not None else ""
    events = f"device {history.device}, {counted(history.events, 'event')}{lasted}"
    if not history.events:
        return f"{events}: only the memory at one moment"
    if not history.begins_in_midrun:
        return f"{events}, from the first allocation on"
    made, blocks = history.start.made, sum(own.blocks for own in history.start.alive)
    there = f"{counted(blocks, 'block')} of {size_text(made.allocated_bytes)}" if blocks else "nothing allocated"
    return f"{events}, from mid-run on: {there} in {size_text(made.reserved_bytes)} reserved were there before it"


def _pinned(made: Made) -> str:
    share = made.unusable_bytes / made.reserved_bytes if made.reserved_bytes else 0
    largest = f", the largest {size_text(made.largest_pinned_bytes)}" if made.unusable_bytes else ""
    return f"{size_text(made.unusable_bytes)}, {share:.1%}, in {counted(made.pinned_segments, 'segment')}{largest}"


def _refused(history: History) -> Iterator[str]:
    """What ran out of memory: the first three times, and how often more."""
    for refusal in history.refusals[:3]:
        after = history.numbers.index(refusal.event)
        idle = history.reserved[after] - history.allocated[after]
        yield (
            f"at event {refusal.event:,}: {size_text(refusal.requested_bytes)} asked for, "
            f"{size_text(refusal.free_bytes)} free on the card, {size_text(idle)} reserved but not allocated."
        )
    if (more := len(history.refusals) - 3) > 0:
        yield f"and {counted(more, 'more time')}."


def saving_words(history: History) -> str:
    """What the other setting of expandable segments would have reserved: exactly, or a bound."""
    peak, otherwise = history.reserved_peak.made.reserved_bytes, history.otherwise_reserved_bytes
    other = f"{'without' if history.expandable else 'with'} expandable_segments:True"
    if otherwise is not None:
        less = f"{size_text(abs(peak - otherwise))} {'less' if otherwise < peak else 'more'}"
        return (
            f"{other} the same requests would have reserved {size_text(otherwise)} at the peak, "
            f"{less if otherwise != peak else 'as much'}."
        )
    if not history.most_saved_bytes:
        return f"{other} the reserved peak would have been no less: all of it was needed."
    saved, least = size_text(history.most_saved_bytes), size_text(history.least_reserved_bytes)
    return (
        f"{other} the reserved peak would have been at most {saved} less: the requests alive at one time need "
        f"{least}. A bound, not a replay."
    )


def rules_words(history: History) -> str:
    """Whether the rules reproduce the run."""
    match history.rules:
        case Reproduced(allocations=allocations, segment_events=segments):
            rules = "rules of expandable segments" if history.expandable else "default rules"
            return (
                f"the {rules} give the address of {counted(allocations, 'allocation')} and "
                f"{counted(segments, 'segment event')}, 0 B off in allocated and reserved."
            )
        case SetAside(reasons=reasons):
            return (
                f"not asked. The recording has {'; '.join(reasons)}; the rules are for one stream, no private "
                "pools and default settings. All figures are the recording's own."
            )
        case Parted() as parted:
            return (
                f"they part with the recording at event {parted.event:,}: {_parting(parted)}. All figures are "
                "the recording's own."
            )


def _parting(parted: Parted) -> str:
    if parted.recorded_segments != parted.expected_segments:
        verb = "gave back" if parted.recorded_address is None else "took"
        return (
            f"it {verb} {_segments(parted.recorded_segments)}, by the rules it would be "
            f"{_segments(parted.expected_segments)}"
        )
    return f"the block is at {parted.recorded_address:#x}, by the rules at {parted.expected_address or 0:#x}"


def _segments(segments: tuple[tuple[int, int], ...]) -> str:
    if not segments:
        return "no segment"
    told = ", ".join(f"{size:,} B" for _, size in segments[:4])
    more = f" and {len(segments) - 4:,} more" if len(segments) > 4 else ""
    return f"{counted(len(segments), 'segment')} of {told}{more}"


def when(moment: Moment) -> str:
    """A moment by its event, and its time where the recording has a clock."""
    if moment.event is None:
        return "before the first event"
    time = f", after {moment.time_s:,.3f} s" if moment.time_s is not None else ""
    return f"event {moment.event:,}{time}"


def size_text(size: int) -> str:
    """Bytes in both units: GB from 1 GB on, MB below, and bytes alone below 1 MB."""
    if size < 10**6:
        return f"{size:,} B"
    return sizes_text(size) if size >= 10**9 else f"{size / 10**6:,.1f} MB ({size / 2**20:,.1f} MiB)"


def counted(number: int, what: str) -> str:
    """So many of a thing: "1 block", "2,100 blocks"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _peaks(history: History) -> Table:
    table = _table("", "bytes", "GB", "GiB")
    table.add_column("when", overflow="fold")
    for name, moment in (("allocated", history.allocated_peak), ("reserved", history.reserved_peak)):
        size: int = getattr(moment.made, f"{name}_bytes")
        table.add_row(f"peak {name}", f"{size:,}", f"{size / 10**9:,.2f}", f"{size / 2**30:,.2f}", when(moment))
    return table


def _parts(history: History) -> Table:
    moments = {"allocated peak": history.allocated_peak, "reserved peak": history.reserved_peak, "end": history.end}
    table = _table("", *moments)
    for name, part in PARTS.items():
        sizes = [getattr(moment.made, part) for moment in moments.values()]
        if any(sizes) or part == "reserved_bytes":
            table.add_row(name, *(f"{size:,}" for size in sizes), style="bold" if part == "reserved_bytes" else "")
    return table


def _alive(peak: Moment, top: int) -> Table:
    """What was alive at the peak, by frame; what is not listed in one row."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("bytes", "share", "blocks"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("frame", overflow="fold")
    listed, rest = peak.alive[:top], peak.alive[top:]
    if rest:
        size, blocks = sum(own.bytes for own in rest), sum(own.blocks for own in rest)
        listed += (Alive(frame=counted(len(rest), "more frame"), bytes=size, blocks=blocks),)
    for own in listed:
        share = own.bytes / peak.made.allocated_bytes
        table.add_row(f"{own.bytes:,}", f"{share:.1%}", f"{own.blocks:,}", Text(own.frame or NO_FRAME))
    return table
