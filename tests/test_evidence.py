"""Published figures: what is printed, how each is answered, and that nothing changes unseen."""

import json
import re
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.invoked import Result, invoke
from vram_ledger.analysis.ground.cards import card_of
from vram_ledger.analysis.ground.figures import PUBLIC, FromRuntime, read_figures
from vram_ledger.analysis.ground.printed import FigureError, Range, read_printed
from vram_ledger.analysis.predicting.library import Library
from vram_ledger.analysis.public.evidence import Row, addresses, evidence_markdown, published_rows
from vram_ledger.analysis.public.expressions import range_of, shapes_of, sizes_of
from vram_ledger.analysis.public.protocols import Told, read_told, told_range, told_text
from vram_ledger.analysis.serving.held import said
from vram_ledger.analysis.serving.model import read_served
from vram_ledger.home import GPUS, MODELS

BIG = MODELS / "qwen3.5-27b.json"
RUNTIME = 'runtime = "vllm", term = "x", model = "qwen3.5-9b"'
WEIGHTS = ("vllm", "weights")
NEEDED = 'name = "a"\naddress = "o/r#1"\nran = "x"\nquantity = "y"\n'


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return published_rows()


def told(tmp_path: Path, *records: str, options: tuple[str, ...] = ()) -> Result:
    """What the command says of figures; a record has a name, an address and what ran, unless it begins with [[."""
    file = tmp_path / "mine.toml"
    text = [r if r.startswith("[[") else f"[[figures]]\n{NEEDED}{r}" for r in records]
    file.write_text("\n".join(text) + "\n", encoding="utf-8")
    return invoke("evidence", "--file", file, "--results", tmp_path, *options)


def answer(tmp_path: Path, printed: str, answered: str) -> dict[str, object]:
    """The row of one figure, as JSON."""
    result = told(tmp_path, f'printed = "{printed}"\nanswer = {answered}', options=("--json",))
    (row,) = json.loads(result.stdout)["rows"]
    return dict(row)


# ---- what is published


def test_there_are_many_figures_of_many_addresses(rows: list[Row]) -> None:
    assert (len(rows) >= 40, len(addresses(rows)) >= 15) == (True, True)


def test_every_published_figure_stands_as_it_did() -> None:
    result = invoke("evidence")
    assert (0, "exit 0: every figure stands as it did") == (result.exit_code, result.output.splitlines()[-1])


def test_six_peaks_of_the_small_model_are_equal_to_the_byte(rows: list[Row]) -> None:
    found = {r.figure.name: r.ours for r in rows if re.fullmatch(r"0.8b-(prefill|generate)-\d+", r.figure.name)}
    assert ["equal"] * 6 == list(found.values())


def test_weights_that_vllm_prints_are_inside_two_digits(rows: list[Row]) -> None:
    own = [r for r in rows if isinstance(a := r.figure.answer, FromRuntime) and (a.runtime, a.term) == WEIGHTS]
    assert {"50.22 GiB", "51.1 GiB", "17.66 GiB", "18.12 GiB", "1.72 GiB"} == {r.figure.printed.text for r in own}
    assert {"agrees"} == {r.standing for r in own}


@pytest.mark.parametrize(("model", "tower", "term_text"), [("27b", 0, True), ("27b", 1, False), ("9b", 1, False)])
def test_an_expression_and_a_runtime_give_the_same_weights(model: str, tower: int, term_text: bool) -> None:
    name = f"qwen3.5-{model}"
    shapes, sizes = sizes_of(MODELS / f"{name}.json")
    own = FromRuntime(runtime="vllm", term="weights", model=name, text=term_text)
    assert said(own, read_served(MODELS / f"{name}.json", name)) == range_of(
        f"vllm_weights(positions, tower={tower})", shapes, sizes, {}
    )


def test_no_figure_is_there_twice(rows: list[Row]) -> None:
    """Of one address, one quantity of one run is printed once."""
    keys = [(f.address or f.found, f.ran, f.quantity, f.printed.text) for f in (row.figure for row in rows)]
    assert len(set(keys)) == len(keys)


def test_every_figure_with_which_we_disagree_says_what_was_tried(rows: list[Row]) -> None:
    silent = [row.figure.name for row in rows if row.standing != "agrees" and len(row.figure.tried) < 20]
    assert not silent


def test_disagreements_come_first(rows: list[Row]) -> None:
    order = list(dict.fromkeys(row.standing for row in rows))
    assert ["disagrees", "not answered", "agrees"] == order


def test_stored_table_is_the_generated_one(rows: list[Row]) -> None:
    assert (ROOT / "results" / "evidence.md").read_text(encoding="utf-8") == "\n".join(evidence_markdown(rows)) + "\n"


def test_what_the_readme_shows_is_in_the_table(rows: list[Row]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| [^|]+ \| (\d[^|]+) \| ([^|]+) \|$", readme.partition("**The proof.**")[2], re.MULTILINE)
    told_ = {row.figure.printed.text: row.ours for row in reversed(rows)}
    pairs = [(text, says) for printed, says in shown[:7] for text in re.split(r", (?=\d)", printed)]
    assert 13 == len(pairs)
    assert not [(text, says) for text, says in pairs if told_[text] not in says]


def test_the_readme_counts_figures_and_addresses(rows: list[Row]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{len(rows)} figures that others published" in readme
    assert f"at {len(addresses(rows))} public addresses" in readme


def test_the_command_needs_neither_torch_nor_a_second() -> None:
    program = "import sys; from vram_ledger.cli import run; run(['evidence']); print('torch' in sys.modules)"
    began = time.process_time_ns()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "False" == done.stdout.splitlines()[-1]
    assert time.process_time_ns() - began < 10**9


# ---- a change is seen


@pytest.mark.parametrize(
    ("printed", "more", "said"),
    [
        ("30.31 GiB", "", "exit 0: every figure stands as it did"),
        ("30.33 GiB", "", "exit 1: not as it was: a (does not agree)"),
        ("30.33 GiB", 'apart = "-0.02 GiB"\ntried = "t"', "exit 0: every figure stands as it did"),
        ("30.33 GiB", 'apart = "-0.05 GiB"\ntried = "t"', "exit 1: not as it was: a (difference changed)"),
        ("30.31 GiB", 'apart = "-0.02 GiB"\ntried = "t"', "exit 1: not as it was: a (agrees now)"),
    ],
)
def test_a_row_that_is_not_as_it_was_fails(tmp_path: Path, printed: str, more: str, said: str) -> None:
    own = 'answer = { expression = "65536 * vocabulary * 2", model = "qwen3.5-0.8b" }'
    result = told(tmp_path, f'printed = "{printed}"\n{own}\n{more}')
    assert (int(said[5]), said) == (result.exit_code, result.output.splitlines()[-1])


def test_a_figure_without_an_answer_fails_nothing_and_is_listed(tmp_path: Path) -> None:
    result = told(tmp_path, 'printed = "5.66 GiB"\ntried = "nothing is known of it"')
    assert (0, True) == (result.exit_code, "nothing is known of it" in result.output)


def test_json_has_the_same_code_and_every_row(tmp_path: Path) -> None:
    result = told(tmp_path, 'printed = "1 B"\nanswer = { expression = "2" }', options=("--json",))
    found = json.loads(result.stdout)
    assert (1, 1, 1.0, "does not agree") == (
        result.exit_code, found["exit"], found["rows"][0]["apart"], found["rows"][0]["standing"],
    )  # fmt: skip


# ---- how a figure is printed


@pytest.mark.parametrize(
    ("text", "unit", "finely", "least", "most"),
    [
        ("1,602,327,552 B", "", "", 1_602_327_552, 1_602_327_552),
        ("2 MiB", "", "", 3 * 2**19, 5 * 2**19),
        ("8.02 x", "", "", Fraction("8.015"), Fraction("8.025")),
        ("1,151 blocks", "", "", 1151, 1151),
        ("27.00 GB", "GiB", "", Fraction("26.995") * 2**30, Fraction("27.005") * 2**30),
        ("51.1 GiB", "", "0.02 GiB", Fraction("51.09") * 2**30, Fraction("51.11") * 2**30),
        ("72 KiB/token", "", "", Fraction("71.5") * 1024, Fraction("72.5") * 1024),
        ("-0.84 GiB", "", "", Fraction("-0.845") * 2**30, Fraction("-0.835") * 2**30),
    ],
)
def test_a_printed_figure_is_all_values_that_are_printed_so(
    text: str, unit: str, finely: str, least: Fraction, most: Fraction
) -> None:
    assert Range(least=Fraction(least), most=Fraction(most)) == read_printed(text, unit, finely).range


def test_ranges_that_only_touch_are_not_the_same_figure() -> None:
    touching = read_printed("21.42 GiB").range, read_printed("21.43 GiB").range
    on_the_edge = Range(least=touching[0].most, most=touching[0].most)
    assert [False, True, True] == [touching[0].meets(touching[1]), *(on_the_edge.meets(own) for own in touching)]


@pytest.mark.parametrize("text", ["", "GiB", "50.22", "1.2.3 GiB", "five GiB", "1,00 B"])
def test_what_is_no_figure_is_refused(text: str) -> None:
    with pytest.raises(FigureError, match="no figure with a unit"):
        read_printed(text)


# ---- answers


def test_what_was_printed_beside_a_figure_makes_the_answer_a_range() -> None:
    shapes, sizes = sizes_of(BIG)
    found = range_of("floor(pool / vllm_block())", shapes, sizes, {"pool": "55.1 GiB"})
    assert Range(least=Fraction(1150), most=Fraction(1152)) == found


def test_sizes_that_a_record_states_need_no_config() -> None:
    sizes = {"n_full": 10, "n_linear": 30, "kv_heads": 2, "head_dim": 256, "linear_value_heads": 32,
             "linear_key_heads": 16, "linear_value_dim": 128, "linear_key_dim": 128, "conv_width": 4}  # fmt: skip
    found = range_of("vllm_block_tokens(kv=1)", shapes_of(sizes), sizes, {})
    assert Fraction(2096) == found.least


def test_a_size_of_one_s_own_may_be_called_as_a_part_of_the_shapes() -> None:
    assert Range(least=Fraction(3), most=Fraction(3)) == range_of("vision", shapes_of({"vision": 3}), {"vision": 3}, {})


@pytest.mark.parametrize(("quantity", "expected"), [("requested", 85_619_055_472), ("allocated", 85_636_270_080)])
def test_a_program_answers_to_the_byte(tmp_path: Path, quantity: str, expected: int) -> None:
    program = '{ model = "qwen3.5-27b", context = 131072, card = "a100-80gb" }'
    row = answer(tmp_path, f"{expected:,} B", f'{{ quantity = "{quantity}", program = {program} }}')
    assert ("agrees", expected, expected) == (row["standing"], row["our_least"], row["our_most"])


def test_a_program_tells_what_a_phase_asked_for_that_ran_out_of_memory(tmp_path: Path) -> None:
    program = '{ model = "qwen3.5-27b", context = 131072, card = "a100-80gb" }'
    row = answer(tmp_path, "1.50 GiB", f'{{ quantity = "asked", program = {program} }}')
    predictor = Library.of().predictor("qwen3.5-27b", card=card_of("a100-80gb", GPUS))
    failed = predictor.predict("prefill", 1, 131_072).failed
    assert failed is not None
    assert ("agrees", failed.failure.asked_bytes) == (row["standing"], row["our_least"])


def test_a_card_says_if_it_quotes_the_very_figure(tmp_path: Path) -> None:
    row = answer(tmp_path, "79.25 GiB", '{ card = "a100-80gb", quantity = "total" }')
    assert "agrees" == row["standing"]
    quoted = {r.figure.name: r.answer.origin for r in published_rows() if r.answer and r.source == "card table"}
    assert quoted["total-a100-80gb"].endswith("which quotes this figure")
    assert not quoted["total-rtx-pro-6000-elsewhere"].endswith("which quotes this figure")


PROTOCOL = """
import json, torch
a = torch.empty(1000, device="cuda")
told = {"peak": torch.cuda.max_memory_allocated()}
try:
    torch.empty(30 << 30, dtype=torch.uint8, device="cuda")
except torch.cuda.OutOfMemoryError as error:
    told["too much"] = str(error)
print(json.dumps(told))
"""


def test_a_protocol_of_one_s_own_is_run_kept_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PROTOCOL, encoding="utf-8")
    other = NEEDED.replace('"a"', '"b"')
    own = 'answer = {{ protocol = "mine", at = "{}", part = "{}" }}'
    records = (
        '[[protocols]]\nname = "mine"\nscript = "mine.py"\ncard = "rtx-4090"',
        f'printed = "4,096 B"\n{own.format("peak", "")}',
        f'[[figures]]\n{other}printed = "30.00 GiB"\n{own.format("too much", "asked")}',
    )
    missing = told(tmp_path, *records)
    ran = told(tmp_path, *records, options=("--anew",))
    again = told(tmp_path, *records)
    assert (2, True) == (missing.exit_code, "make evidence ANEW=1 runs it" in missing.output)
    assert (0, 0) == (ran.exit_code, again.exit_code), ran.output
    kept = json.loads((tmp_path / "protocols" / "mine.json").read_text(encoding="utf-8"))
    assert ("emulated", 4096) == (kept["kind"], kept["told"]["peak"])
    assert "torch" in kept["software"]


# ---- what can't be asked


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("nothing", "no size is called 'nothing'; there are"),
        ("vocabulary.hidden", "only sizes, numbers"),
        ("__import__('os')", "only sizes, numbers"),
        ("open(vocabulary)", "no function is called 'open'"),
        ("vocabulary ** vocabulary", "a power of 248320"),
        ("vocabulary / 0", "a division by 0"),
        ("vocabulary *", "is no expression"),
        ("vllm_block(cards=2)", "it is vllm_block(kv=2, parts=1, drafts=0)"),
        ("True", "not True or False"),
        ("floor(1, 2)", "floor: "),
        ("2 ** 64 * 2 ** 64", "comes to more than"),
        ("vllm_weights(9, tower=1, tables=2)", "it is vllm_weights(positions, tower=0)"),
        ("((((9**64)**64)**64)**64)**64 % 7", "more than 4,096 bits"),
        ("(1 / 3**64)**64", "more than 4,096 bits"),
        ("2 ** 0.5", "a power of 1/2; whole ones"),
        ("(-2) ** 0.5", "a power of 1/2; whole ones"),
        ("1e400", "a number that is too large"),
        ("-" * 990 + "1", "is nested too deeply"),
        ("vllm_weights(10**30)", "positions is from 0 to 1,000,000,000"),
        ("vllm_block(kv=-2)", "kv is from 1 to"),
        ("vllm_block(parts=-1)", "parts is from 1 to"),
        ("vllm_block(drafts=-9)", "drafts is from 0 to"),
    ],
)
def test_an_expression_that_is_none_is_refused_in_a_line(tmp_path: Path, expression: str, said: str) -> None:
    result = told(tmp_path, f'printed = "1 B"\nanswer = {{ expression = "{expression}", model = "qwen3.5-27b" }}')
    assert (2, True) == (result.exit_code, said in result.output.splitlines()[-1]), result.output


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ('printed = "5 parrots"\nanswer = { expression = 5 }', "expression is text, got 5"),
        ('printed = "5 B"', "missing tried"),
        ('printed = "5 B"\ntried = "t"\napart = "1 B"', "apart is the difference of an answer"),
        ('printed = "5 B"\nsize = "5 B"', "unknown field 'size'"),
        ('printed = "many"\ntried = "t"', "is no figure with a unit"),
        ('printed = "5 B"\nanswer = { guess = 5 }', "one of protocol, program, card, expression, runtime"),
        ('printed = "5 B"\nanswer = { protocol = "none", at = "x" }', "no protocol is called 'none'"),
        ('printed = "5 B"\nanswer = { card = "rtx-9999" }', "no GPU is labelled 'rtx-9999'"),
        ('printed = "5 B"\nanswer = { quantity = "peak", program = { model = "qwen3.5-9b" } }', "none of requested"),
        ('printed = "5 B"\nanswer = { quantity = "asked", program = { model = "qwen3.5-9b" } }', "runs out of memory"),
        ('printed = "5 B"\nanswer = { quantity = "asked", program = { model = "qwen9" } }', "no model is named"),
        ('printed = "5 B"\nanswer = { expression = "a", given = { a = 5 } }', "given.a is as printed"),
        (
            'printed = "5 B"\nanswer = { runtime = "vllm", term = "x" }',
            "keyword-only argument: 'model'",
        ),
        (f'printed = "5 B"\nanswer = {{ {RUNTIME}, batch = true }}', "batch is a whole number, got True"),
        (f'printed = "5 B"\nanswer = {{ {RUNTIME}, prefix_caching = 1 }}', "prefix_caching is true or false, got 1"),
        (f'printed = "5 B"\nanswer = {{ {RUNTIME} }}', "term 'x' is none of vllm's: block, block size"),
        ('[[figures]]\nname = "a"', "missing ran, quantity, printed"),
        ('[[figures]]\nname = "a"\nran = "x"\nquantity = "y"\nprinted = "5 B"\ntried = "t"', "missing address"),
        ("[[figure]]", "is neither [[figures]] nor [[protocols]]"),
        ("[[figures]", "not TOML"),
        ('printed = "5 B"\nanswer = { expression = "1", sizes = { hidden = -1 } }', "sizes.hidden is from 0 to"),
        (f'printed = "5 B"\nanswer = {{ expression = "1", sizes = {{ a = {"9" * 5000} }} }}', "mine.toml: not TOML"),
        (
            'printed = "5 B"\nanswer = { expression = "vllm_weights(8)", sizes = { n_full = 6, n_linear = 5 } }',
            "6 of 11 layers",
        ),
        (f'printed = "{"9" * 5000} B"', "is no figure with a unit"),
        (
            'printed = "5 B"\nanswer = { quantity = "allocated", '
            'program = { model = "qwen3.5-9b", variant = "text-eager" } }',
            "figure 'a': qwen3.5-9b",
        ),
    ],
)
def test_a_record_that_is_wrong_is_named_in_a_line(tmp_path: Path, record: str, said: str) -> None:
    result = told(tmp_path, record)
    assert (2, True) == (result.exit_code, said in result.output.splitlines()[-1]), result.output


@pytest.mark.parametrize(
    ("tells", "code", "said"),
    [
        ("print('no JSON')", 1, "fault: mine.py: its last line is no JSON: no JSON"),
        ("print('[1]')", 2, "mine.py: a protocol tells an object"),
        ("print('{\"peak\": 1.5}')", 2, "mine.py: peak is neither a whole number nor a text: 1.5"),
    ],
)
def test_a_protocol_that_tells_no_numbers_is_named_in_a_line(tmp_path: Path, tells: str, code: int, said: str) -> None:
    (tmp_path / "mine.py").write_text(tells, encoding="utf-8")
    protocol = '[[protocols]]\nname = "mine"\nscript = "mine.py"\ncard = "rtx-4090"'
    record = 'printed = "1 B"\nanswer = { protocol = "mine", at = "peak" }'
    result = told(tmp_path, protocol, record, options=("--anew",))
    assert (code, True) == (result.exit_code, said in result.output.splitlines()[-1]), result.output


def test_a_package_that_is_not_installed_is_named_before_a_protocol_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vram_ledger.commands.evidence.PACKAGES", ("torch", "no-such-package"))
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    protocol = '[[protocols]]\nname = "mine"\nscript = "mine.py"\ncard = "rtx-4090"'
    record = 'printed = "1 B"\nanswer = { protocol = "mine", at = "peak" }'
    result = told(tmp_path, protocol, record, options=("--anew",))
    assert (3, True) == (result.exit_code, "no-such-package is not installed" in result.output), result.output


def test_an_amount_in_bytes_is_read_from_a_message() -> None:
    said = "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.52 GiB of which 0 bytes is free."
    stored = Told(protocol="p", script="p.py", card="c", arguments=(), software={}, told={"at": said})
    assert Range(least=Fraction(0), most=Fraction(0)) == told_range(stored, "at", "free")


def test_a_stored_protocol_with_a_float_is_refused(tmp_path: Path) -> None:
    stored = Told(protocol="p", script="p.py", card="c", arguments=(), software={}, told={"at": 1.5})  # type: ignore[dict-item]
    (tmp_path / "p.json").write_text(told_text(stored), encoding="utf-8")
    with pytest.raises(FigureError, match=r"p\.json: at is neither a whole number nor a text: 1\.5"):
        read_told(tmp_path / "p.json")


def test_two_figures_of_one_name_are_refused(tmp_path: Path) -> None:
    result = told(tmp_path, 'printed = "5 B"\ntried = "t"', 'printed = "6 B"\ntried = "t"')
    assert (2, True) == (result.exit_code, "two figures are called 'a'" in result.output)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = invoke("evidence", "--file", tmp_path / "none.toml")
    assert (2, True) == (result.exit_code, "no such file; FILE is a TOML of figures" in result.output)


@pytest.mark.parametrize("file", sorted(PUBLIC.glob("*.toml")), ids=lambda path: path.stem)
def test_names_are_short_and_of_one_form(file: Path) -> None:
    figures, _ = read_figures(file)
    assert not [f.name for f in figures if not re.fullmatch(r"[a-z0-9.]+(-[a-z0-9]+)*", f.name)]
