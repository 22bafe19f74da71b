"""What a program foretells is held against the files of make boundary, and what it foretold wrongly is found."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import BIG, CONFIGS, CONFIGURATION, ROOT
from tests.emulated import CARD, CONTEXT_BYTES, TOTAL_BYTES, WORKSPACE_BYTES, environment, standard
from tests.invoked import invoke
from vram_ledger.analysis.allocation.settings import Rules
from vram_ledger.analysis.derivation.derived_files import read_derived
from vram_ledger.analysis.derivation.program import Device, Program, Ran, shape_of
from vram_ledger.analysis.ground.cards import card_of
from vram_ledger.analysis.predicting.capacity import frontier
from vram_ledger.analysis.predicting.held_out import Held, held_out, held_out_markdown
from vram_ledger.analysis.predicting.library import Library
from vram_ledger.errors import InputError
from vram_ledger.harness.boundary import longest
from vram_ledger.harness.lines import Line, read, to_line
from vram_ledger.harness.records import Edge, Fits, OutOfMemory, Peak, Probe, ResultsFile, Workload
from vram_ledger.home import BOUNDARY, RESULTS

FOLDER = ROOT / "results" / f"emulated-{CARD}" / "derived"
PROGRAM = Program(read_derived(next(FOLDER.glob(f"{BIG}.default.decode.*.json"))))
BATCH, MOST = 2, 262_144
EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"


def at(context: int, batch: int = BATCH) -> Workload:
    """A decode step."""
    return Workload(configuration=CONFIGURATION, phase="decode", context_tokens=context, batch=batch)


def ended(workload: Workload, rules: Rules = "default") -> Fits | OutOfMemory:
    """What the card says of a workload, as the program has it."""
    device = Device(multiprocessors=108, workspace_bytes=WORKSPACE_BYTES, total_bytes=TOTAL_BYTES, rules=rules)
    ran = PROGRAM.run(device, *shape_of(workload), capacity_bytes=TOTAL_BYTES - CONTEXT_BYTES)
    if isinstance(ran, Ran):
        peak = Peak(
            requested_bytes=ran.peak.requested_bytes,
            allocated_bytes=ran.peak.allocated_bytes,
            reserved_bytes=ran.peak.reserved_bytes,
            process_bytes=None,
            device_bytes=None,
        )
        return Fits(baseline_bytes=1, peak=peak, retries=ran.retries, setup_s=0.1, forward_s=0.1, tuned=False)
    return OutOfMemory(
        during="cold",
        asked_bytes=ran.failure.asked_bytes,
        free_bytes=ran.failure.free_bytes,
        requested_bytes=ran.failure.held.requested_bytes,
    )


EDGE_TOKENS = longest(lambda n: isinstance(ended(at(n)), Fits), MOST, 215_000)
FITTING, FULL = (at(n) for n in (EDGE_TOKENS, EDGE_TOKENS + 1))


def probe(workload: Workload, outcome: Fits | OutOfMemory) -> Probe:
    """A workload that the card was asked for."""
    return Probe(workload=workload, fresh=False, outcome=outcome)


def edge(tokens: int, most: int = MOST) -> Edge:
    """An edge of the batch."""
    return Edge(
        configuration=CONFIGURATION, phase="decode", batch=BATCH, most_tokens=most, fits_tokens=tokens, confirmed=True
    )


PROBES = (probe(at(1000), ended(at(1000))), probe(FITTING, ended(FITTING)), probe(FULL, ended(FULL)))


def boundary(probes: Sequence[Probe] = PROBES, *edges: Edge, settings: str = "") -> ResultsFile:
    """A file of make boundary in memory."""
    return ResultsFile(
        path=Path("x.jsonl"),
        environment=dataclasses.replace(environment(), allocator_settings=settings),
        measurements=(),
        standards=(standard("start"),),
        probes=tuple(probes),
        edges=edges,
    )


def held(results: ResultsFile) -> Held:
    """The one row of a file."""
    (row,) = held_out(results, lambda phase: PROGRAM)
    return row


def test_what_the_card_said_is_foretold_to_the_byte() -> None:
    assert held(boundary(PROBES, edge(EDGE_TOKENS))) == Held(
        card=CARD, kind="emulated", model=BIG, variant="default", phase="decode", rules="default",
        fit=2, out_of_memory=1, right=3, apart=(0, 0, 0), edges=1, edges_right=1,
    )  # fmt: skip


@pytest.mark.parametrize("counter", range(3))
def test_a_byte_more_of_one_counter_is_seen_in_that_counter(counter: int) -> None:
    fits = ended(FITTING)
    assert isinstance(fits, Fits)
    name = ("requested_bytes", "allocated_bytes", "reserved_bytes")[counter]
    more = dataclasses.replace(fits.peak, **{name: getattr(fits.peak, name) + 1})
    found = held(boundary([probe(FITTING, dataclasses.replace(fits, peak=more))]))
    assert tuple(int(n == counter) for n in range(3)) == found.apart


@pytest.mark.parametrize("field", ["asked_bytes", "free_bytes", "requested_bytes"])
def test_another_request_that_fails_is_not_what_was_foretold(field: str) -> None:
    full = ended(FULL)
    assert isinstance(full, OutOfMemory)
    other = dataclasses.replace(full, **{field: (getattr(full, field) or 0) + 1})  # type: ignore[arg-type]
    assert 2 == held(boundary([*PROBES[:2], probe(FULL, other)])).right


@pytest.mark.parametrize(("workload", "outcome"), [(FULL, ended(FITTING)), (FITTING, ended(FULL))])
def test_an_outcome_that_was_not_foretold_is_counted_as_such(workload: Workload, outcome: Fits | OutOfMemory) -> None:
    found = held(boundary([PROBES[0], probe(workload, outcome)]))
    assert (2, 1) == (found.fit + found.out_of_memory, found.right)


@pytest.mark.parametrize("tokens", [EDGE_TOKENS - 1, EDGE_TOKENS + 1])
def test_an_edge_that_is_a_token_off_is_not_foretold(tokens: int) -> None:
    found = held(boundary(PROBES, edge(EDGE_TOKENS), edge(tokens)))
    assert (2, 1) == (found.edges, found.edges_right)


@pytest.mark.parametrize(("tokens", "most", "right"), [(5000, 5000, 1), (5000, 5001, 0), (0, 5000, 0)])
def test_an_edge_at_an_end_says_one_thing_only(tokens: int, most: int, right: int) -> None:
    assert right == held(boundary(PROBES, edge(tokens, most))).edges_right


def test_a_card_s_allocator_settings_decide_what_is_foretold() -> None:
    probes = [probe(w, ended(w, "expandable_segments")) for w in (at(1000), at(100_000), FULL)]
    own = held(boundary(probes, settings=EXPANDABLE))
    assert ("expandable_segments", 3, (0, 0, 0)) == (own.rules, own.right, own.apart)
    other = held(boundary(probes))
    assert ("default", 0) == (other.rules, other.apart[0])
    assert other.apart[2] > 0


def test_a_setting_that_is_not_modelled_is_refused_with_the_file_s_name() -> None:
    odd = boundary(settings="PYTORCH_CUDA_ALLOC_CONF=garbage_collection_threshold:0.8")
    with pytest.raises(InputError, match=r"^x\.jsonl: allocator setting 'garbage_collection_threshold:0\.8'"):
        held(odd)


def test_a_shape_outside_the_program_s_domain_is_not_foretold() -> None:
    beyond = at(2 * MOST, 1)
    outside = Edge(
        configuration=CONFIGURATION, phase="decode", batch=BATCH, most_tokens=4 * MOST, fits_tokens=2 * MOST,
        confirmed=True,
    )  # fmt: skip
    found = held(boundary([*PROBES, probe(beyond, ended(FULL))], outside))
    assert (4, 3, 1, 0) == (found.fit + found.out_of_memory, found.right, found.edges, found.edges_right)


def test_a_phase_without_a_program_has_no_row() -> None:
    assert [] == list(held_out(boundary(), lambda phase: None))


@pytest.mark.parametrize(
    ("gpu", "transformers", "found"),
    [(CARD, "5.24.0", f"{BIG}.default.decode."), (CARD, "9.9.9", None), ("h100", "5.24.0", f"{BIG}.default.decode.")],
)
def test_a_file_is_held_against_the_program_of_its_software_and_attention(
    gpu: str, transformers: str, found: str | None
) -> None:
    capability = {CARD: "8.0", "h100": "9.0"}[gpu]
    own = dataclasses.replace(environment(card=gpu), transformers=transformers, gpu_capability=capability)
    program = Library.of(ROOT / "results").programs(dataclasses.replace(boundary(), environment=own))("decode")
    assert (found is None) == (program is None)
    if program is not None:
        assert program.derived.name.startswith(str(found))
        assert capability == program.derived.environment.gpu_capability


def test_the_edge_is_the_end_of_what_capacity_calls_certain() -> None:
    """The same question asked in two ways, of the same card."""
    card = card_of(CARD, CONFIGS / "gpus.toml", f"{TOTAL_BYTES // 2**20}MiB")
    ready = Library.of(ROOT / "results").predictor(BIG, "default", card, CONTEXT_BYTES)
    (found,) = frontier(ready, "decode", batches=(BATCH,), contexts=()).contexts
    assert isinstance(ended(at(found.certain)), Fits)
    assert isinstance(ended(at(found.certain + 1)), OutOfMemory)
    assert found.certain <= EDGE_TOKENS <= found.possible


def test_the_table_says_of_what_kind_the_card_was_and_every_figure() -> None:
    text = "\n".join(held_out_markdown([held(boundary(PROBES, edge(EDGE_TOKENS), edge(EDGE_TOKENS - 1)))]))
    assert "**EMULATED CARD — no kernels, not measured**" in text
    cells = [cell.strip() for cell in text.splitlines()[-1].strip("| ").split("|")]
    assert f"{CARD} emulated {BIG} default decode default 3 2 1 3 0 0 0 2 1" == " ".join(cells)


# ---- the command ----


def written(folder: Path, results: ResultsFile) -> Path:
    """A file of make boundary where it belongs."""
    path = folder / "boundary" / f"emulated-{CARD}" / "default" / f"{BIG}.emulated.abc.jsonl"
    path.parent.mkdir(parents=True)
    lines: list[Line] = [results.environment, *results.standards, *results.probes, *results.edges]
    path.write_text("".join(map(to_line, lines)), encoding="utf-8")
    return path


def test_command_scores_a_folder_s_files_and_leaves_the_table_there(tmp_path: Path) -> None:
    written(tmp_path, boundary([*PROBES, *(dataclasses.replace(p, fresh=True) for p in PROBES[1:])], edge(EDGE_TOKENS)))
    done = invoke("held-out", "--results", tmp_path)
    assert (0, "exit 0: scored") == (done.exit_code, done.stdout.splitlines()[-1])
    assert done.stdout.startswith((tmp_path / "held-out.md").read_text(encoding="utf-8"))
    (row,) = json.loads(invoke("held-out", "--results", tmp_path, "--json").stdout)
    assert (5, [0, 0, 0], 1) == (row["right"], row["apart"], row["edges_right"])


@pytest.mark.parametrize("left_out", ["probes", "standards"])
def test_file_that_is_no_boundary_s_is_refused_by_name(tmp_path: Path, left_out: str) -> None:
    path = written(tmp_path, dataclasses.replace(boundary(), **{left_out: ()}))  # type: ignore[arg-type]
    done = invoke("held-out", "--file", path, "--results", tmp_path)
    assert (2, 1) == (done.exit_code, done.stderr.count("\n"))
    assert f"bad input: {path}: no {left_out} in it" in done.stderr
    assert not (tmp_path / "held-out.md").exists()


def test_folder_without_files_of_a_boundary_is_refused(tmp_path: Path) -> None:
    done = invoke("held-out", "--results", tmp_path)
    assert (2, True) == (done.exit_code, "has no files of make boundary; name one (FILE=)" in done.stderr)


@pytest.mark.parametrize(
    "path", sorted((RESULTS / BOUNDARY).rglob("*.jsonl")), ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_every_outcome_and_edge_on_file_is_foretold(path: Path) -> None:
    results = read(path)
    step = max(1, len(results.probes) // 60)
    some = dataclasses.replace(results, probes=results.probes[::step])
    rows = list(held_out(some, Library.of(RESULTS).programs(results)))
    assert {p.workload.phase for p in some.probes} == {row.phase for row in rows}
    assert {(0, 0, 0)} == {row.apart for row in rows}
    assert [(row.fit + row.out_of_memory, row.edges) for row in rows] == [(row.right, row.edges_right) for row in rows]
