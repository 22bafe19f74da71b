"""Loops: a log that repeats is shortened to three rounds, and a program with more than that is as if written out."""

import dataclasses

import numpy as np
import pytest

from vram_ledger.analysis.allocation.steps import steps_of
from vram_ledger.analysis.derivation.derived import Regime
from vram_ledger.analysis.derivation.forms import Domain
from vram_ledger.analysis.derivation.loops import ROUNDS, Loop, shortened
from vram_ledger.analysis.derivation.program import Numbered, in_full
from vram_ledger.harness.events import Allocation, EventLog, live_bytes

BEFORE = (7, 8, 9, 4)  # requests: what the first round frees, and what stays
# A round: four requests, of which two are freed within it, and the state and an output of the round before it.
ROUND = (10, 11, -1, 12, -1, 13, -4, -4)
AFTER = (20, -1, -1, -1)


def tokens(rounds: int) -> tuple[int, ...]:
    return (*BEFORE, *ROUND * rounds, *AFTER)


def log_of(rounds: int) -> EventLog:
    """The log of these tokens: a request's number is its size."""
    alive: list[int] = []
    made: list[Allocation] = []
    died: dict[int, int] = {}
    for event, token in enumerate(tokens(rounds)):
        if token >= 0:
            alive.append(len(made))
            made.append(
                Allocation(
                    born=event,
                    died=None,
                    bytes=token,
                    shape=(token,),
                    dtype="uint8",
                    op=f"op{token}",
                    module="",
                    source="",
                )
            )
        else:
            died[alive.pop(token)] = event
    return EventLog(
        allocations=tuple(dataclasses.replace(a, died=died.get(n)) for n, a in enumerate(made)),
        events=len(tokens(rounds)),
        marks={"start": len(BEFORE), "end": len(tokens(rounds))},
    )


@pytest.mark.parametrize("rounds", [3, 4, 17])
def test_a_log_of_any_number_of_rounds_is_shortened_to_that_of_three(rounds: int) -> None:
    short, loops = shortened(log_of(rounds))
    assert (log_of(ROUNDS), (Loop(start=len(BEFORE), length=len(ROUND), rounds=rounds),)) == (short, loops)


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_fewer_rounds_are_no_loop(rounds: int) -> None:
    assert (log_of(rounds), ()) == shortened(log_of(rounds))


def test_a_round_of_another_size_is_no_part_of_the_loop() -> None:
    log = log_of(8)
    odd = len(BEFORE) + 5 * len(ROUND)
    changed = tuple(dataclasses.replace(a, bytes=99) if a.born == odd else a for a in log.allocations)
    _, loops = shortened(dataclasses.replace(log, allocations=changed))
    assert sum(loop.rounds for loop in loops) < 8


def test_the_peak_of_three_rounds_is_that_of_any_number() -> None:
    assert max(live_bytes(log_of(ROUNDS))) == max(live_bytes(log_of(50)))


def numbered(rounds: int, alive: int) -> Numbered:
    """The steps of these tokens after requests that are alive, as two pieces, the second with the loop."""
    left = list(range(alive))
    pieces = [np.array(p, dtype=np.int64) for p in steps_of(tokens(rounds), left, alive)]
    made = tuple(t for t in tokens(rounds) if t >= 0)
    return Numbered(alive=alive, pieces=tuple(pieces), made=made, left=np.array(left, dtype=np.int64))


@pytest.mark.parametrize("alive", [0, 3])
@pytest.mark.parametrize("rounds", [3, 4, 5, 40])
def test_a_program_with_more_rounds_is_as_if_they_were_written_out(rounds: int, alive: int) -> None:
    regime = Regime(
        call="whole",
        domain=Domain(batches=(1, 1), contexts=(1, 1), tokens=(1, 1), padded_mask=None),
        columns=((),),
        requests=(),
        prepared=0,
        steps="",
        logs=0,
        checks=0,
        loops=((len(BEFORE), len(ROUND), 0, 1),),
    )
    (steps,), left = in_full(numbered(ROUNDS, alive), regime, [rounds])
    whole = numbered(rounds, alive)
    assert (whole.pieces[0].tolist(), whole.left.tolist()) == (steps.tolist(), left.tolist())
