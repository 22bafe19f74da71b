"""Verdicts for people: a terminal table a configuration, a pandas frame, and Markdown."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vram_ledger.analysis.evidence.verdict import Verdict, point
from vram_ledger.analysis.ground.kinds import Kind, kind_of
from vram_ledger.harness.records import Configuration, Environment, Measured, Measurement, OutOfMemory

if TYPE_CHECKING:
    import pandas

NARROW_COLUMNS = 104  # below this the evidence and the difference do not fit beside the numbers
PIPED_COLUMNS = 120
WIDEST_NUMBER = 20  # words in a number's place, such as the name of a kernel, are cut to it
COLOURS = {"EQUIVALENT": "green", "NO_REFERENCE": "cyan", "DOES_NOT_FIT": "yellow"}
CHECKS = {
    "kernels",
    "measurement",
    "repeatability",
    "neighbours",
    "check standard",
    "invented reads",
    "published points",
}


def console() -> Console:
    """The terminal, or 120 columns where the output is not one."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=PIPED_COLUMNS)


def number(value: float | str | None, signed: bool = False) -> str:
    """A value with thousands separators: whole numbers whole, fractions as far as they matter in bytes."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    sign = "+" if signed else ""
    if float(value).is_integer():
        return f"{int(value):{sign},}"
    places = ".4g" if abs(value) < 1 else ".1f" if abs(value) < 1000 else ".0f"
    return f"{value:{sign},{places}}"


def evidence(verdict: Verdict) -> str:
    """How well the fitted value is known: "exact", a half-width, or "solve" where no freedom is left."""
    if verdict.exact:
        return f"exact, n={verdict.n}"
    if verdict.interval is not None:
        return f"±{number((verdict.interval[1] - verdict.interval[0]) / 2)}, n={verdict.n}"
    return f"solve, n={verdict.n}" if verdict.dof == 0 else f"n={verdict.n}"


def configuration_text(configuration: Configuration) -> str:
    """A configuration on one line."""
    chunk, images = configuration.prefill_chunk_tokens, configuration.images
    return " · ".join(
        (
            configuration.model,
            configuration.model_class.removeprefix("Qwen3_5"),
            configuration.dtype,
            configuration.kernels,
            configuration.attention,
            *configuration.kept_text.split(", "),
            *((f"chunks of {chunk:,}",) if chunk else ()),
            *((f"images {images.count} × {images.width_pixels}×{images.height_pixels}",) if images else ()),
        )
    )


def environment_text(environment: Environment) -> str:
    """The environment on one line: the label, the libraries that decide bytes, the fingerprint."""
    libraries = (("torch", environment.torch), ("transformers", environment.transformers), ("fla", environment.fla))
    versions = (f"{name} {version or 'absent'}" for name, version in libraries)
    return " · ".join((environment.gpu_label, *versions, f"fingerprint {environment.fingerprint()}"))


def print_verdicts(
    out: Console, environment: Environment, verdicts: Sequence[Verdict], lines: Iterable[Measurement]
) -> None:
    """The whole report: banner, a table a configuration with its reasons, and of the counting lines those that ran
    out of memory or read what was never written."""
    lines = tuple(lines)
    if banner := kind_of(environment).banner:
        out.print(banner, style="bold magenta", markup=False)
    out.print(environment_text(environment), markup=False, soft_wrap=True)
    for configuration in dict.fromkeys(v.configuration for v in verdicts):
        own = [v for v in verdicts if v.configuration == configuration]
        out.print(verdict_table(environment, own, out.width))
        for line in reasons(own):
            out.print(line, markup=False, soft_wrap=True)
    for line in (*out_of_memory_lines(lines), *invented_lines(lines)):
        out.print(line, markup=False, soft_wrap=True)


def verdict_table(environment: Environment, verdicts: Sequence[Verdict], width: int = PIPED_COLUMNS) -> Table:
    """One configuration's verdicts, a section a regime, in ``width`` columns of text.

    A narrow table leaves out evidence and difference; where that is not enough, names are folded, never a number.
    """
    narrow = width < NARROW_COLUMNS
    names = ("expected", "fitted") if narrow else ("expected", "fitted", "evidence", "difference, B")
    rows = [_cells(verdict, narrow) for verdict in verdicts]
    words = (kind_of(environment).banner, configuration_text(verdicts[0].configuration))
    title = escape("\n".join(filter(None, words)))
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("term", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    section = ""
    for row, label in zip(rows, section_labels(verdicts), strict=True):
        if label != section:
            table.add_row(f"[bold]{escape(label)}[/bold]")
            section = label
        colour = COLOURS.get(row[-1], "bold red")
        table.add_row(*map(escape, row[:-1]), f"[{colour}]{row[-1]}[/{colour}]")
    return table


def _cells(verdict: Verdict, narrow: bool) -> list[str]:
    middle = [number(verdict.expected), number(verdict.fitted)]
    if not narrow:
        middle += [evidence(verdict), number(verdict.difference_bytes, signed=True)]
    term = verdict.term
    for prefix in ("held ", "transient "):
        term = term.removeprefix(prefix)
    unit = verdict.unit if term == verdict.term and verdict.unit not in ("", "B") else ""
    name = f"  {term}, {unit}" if unit else f"  {term}"
    return [name, *(_cropped(text) for text in middle), verdict.decision]


def _cropped(text: str) -> str:
    return text if len(text) <= WIDEST_NUMBER else text[: WIDEST_NUMBER - 1] + "…"


def section_labels(verdicts: Sequence[Verdict]) -> list[str]:
    """The section that each verdict's row stands in; regimes that differ only in the source line get its number."""
    regimes = dict.fromkeys(v.regime for v in verdicts if v.term.startswith("transient"))
    shared = [r.label for r in regimes]
    labels = []
    for verdict in verdicts:
        regime = verdict.regime
        if verdict.term.startswith("transient"):
            line = regime.source.rpartition(":")[2]
            labels.append(f"{regime.label} @{line}" if shared.count(regime.label) > 1 and line else regime.label)
        elif verdict.term.startswith("held"):
            labels.append(f"held after the {regime.label}")
        elif verdict.term.startswith("peak"):
            labels.append(regime.label)
        else:
            labels.append("checks" if verdict.term in CHECKS else "terms")
    return labels


def reasons(verdicts: Sequence[Verdict]) -> list[str]:
    """What does not pass, or passes for a reason, by decision and cause: each term with the size of its difference at
    its reference point."""
    by_reason: dict[str, list[str]] = {}
    for verdict, label in zip(verdicts, section_labels(verdicts), strict=True):
        if not verdict.passes or verdict.cause:
            reason = f"{verdict.decision}: {verdict.cause}" if verdict.cause else verdict.decision
            by_reason.setdefault(reason, []).append(_difference(verdict, label))
    return [line for reason, terms in by_reason.items() for line in (reason, *terms)]


def _difference(verdict: Verdict, label: str) -> str:
    name = f"{verdict.term} [{verdict.regime.label if label in ('checks', 'terms') else label}]"
    if verdict.difference_bytes is None:
        return f"  {name}"
    return f"  {name} {number(verdict.difference_bytes, signed=True)} B at {verdict.reference}"


def out_of_memory_lines(measurements: Iterable[Measurement]) -> list[str]:
    """A line for each workload that did not fit: where it ended, what it asked for and what was free."""
    lines = []
    for line in measurements:
        if isinstance(line.outcome, OutOfMemory):
            asked, free = number(line.outcome.asked_bytes), number(line.outcome.free_bytes)
            where = f"{line.workload.phase} {point(line.workload)}, during {line.outcome.during}"
            lines.append(f"out of memory: {where}: asked for {asked} B with {free} B free")
    return lines


def invented_lines(measurements: Iterable[Measurement]) -> list[str]:
    """A line for each workload that read what an emulated card had to invent, with the lines of source that did."""
    lines = []
    for line in measurements:
        if isinstance(line.outcome, Measured) and line.outcome.guessed:
            reads = (f"{g.source} ({g.bytes:,} B, count {g.count:,})" for g in line.outcome.guessed)
            again = ", in the repeat" if line.repeat else ""
            lines.append(
                f"invented reads: {line.workload.phase} {point(line.workload)}{again}, left out of every fit: "
                + "; ".join(reads)
            )
    return lines


def frame(verdicts: Sequence[Verdict]) -> "pandas.DataFrame":
    """Every field of every verdict, one row each, for further work in pandas."""
    import pandas  # 0.3 s that the terminal table does without

    return pandas.DataFrame(
        [
            {
                "configuration": configuration_text(v.configuration),
                "term": v.term,
                "regime": v.regime.label,
                "unit": v.unit,
                "expected": v.expected,
                "from": v.expected_from,
                "fitted": v.fitted,
                "evidence": evidence(v),
                "dof": v.dof,
                "condition": v.condition,
                "worst residual, B": v.worst_residual_bytes,
                "at": v.reference,
                "difference, B": v.difference_bytes,
                "tolerance, B": v.tolerance_bytes,
                "verdict": v.decision,
                "cause": v.cause,
            }
            for v in verdicts
        ],
        dtype=object,
    )


def markdown(environment: Environment, verdicts: Sequence[Verdict]) -> str:
    """The frame as Markdown, a table a configuration, under the banner if no card was measured."""
    lines = [*banner_lines(kind_of(environment)), environment_text(environment), ""]
    for configuration, rows in frame(verdicts).groupby("configuration", sort=False):
        columns = [name for name in rows.columns if name != "configuration"]
        lines += [f"### {configuration}", "", _markdown_row(columns), _markdown_row(["---"] * len(columns))]
        lines += [_markdown_row([number(value) for value in row]) for row in rows[columns].itertuples(index=False)]
        lines.append("")
    return "\n".join(lines)


def banner_lines(*kinds: Kind) -> list[str]:
    """The banners of kinds as lines of Markdown; none of a card."""
    return [line for kind in kinds if kind.banner for line in (f"**{kind.banner}**", "")]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
