"""The figure of releases: the requested and the reserved peak of both phases, release by release."""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from vram_ledger.analysis.derivation.derived_files import variant_of
from vram_ledger.analysis.ground.kinds import EMULATED
from vram_ledger.analysis.reporting.axes import GB, bytes_axis
from vram_ledger.analysis.reporting.drawing import SMALL, Drawing, End, Heading, Panel, styled
from vram_ledger.analysis.reporting.palette import LIGHT
from vram_ledger.analysis.versions.records import Point, Run, Versions
from vram_ledger.analysis.versions.steps import Stretch, stretches
from vram_ledger.harness.records import PHASES, Phase

COLOURS = {"prefill": "blue", "decode": "orange"}
MARKS = {"requested": "-", "reserved": (0, (4, 2))}
LEAST_APART = 0.075  # of the axis: names of releases nearer to each other than this would lie on each other


def drawn(versions: Versions, runs: Sequence[Run], package: str = "transformers") -> Drawing:
    """The longest context of one sequence under each release that ran."""
    c = versions.configuration
    subject = f"{c.model} · {variant_of(c)} · {versions.gpu_label}"
    with styled():
        heading = Heading(
            title=f"What each release of {package} takes", subject=subject, banner=EMULATED.banner, role=EMULATED.role
        )
        panel = Panel(heading, height=304, right=118, bottom=58)
        ends, told = _lines(panel.axes, runs, package)
        _release_axis(panel.axes, stretches(runs, package))
        panel.label_ends(ends)
        length = max(point.context_tokens for run in runs for o in run.phases for point in o.points)
        return panel.finished(
            f"versions.{c.model}.{variant_of(c)}",
            "; ".join(told) + ".",
            f"One sequence of {length:,} tokens. Named: the first release of each that differs from the one before it.",
        )


def _lines(axes: Axes, runs: Sequence[Run], package: str) -> tuple[list[End], list[str]]:
    ends, told = [], []
    axes.set_xlim(-0.5, len(runs) - 0.5)
    top = 0
    for phase in PHASES:
        for mark, dashes in MARKS.items():
            sizes = [_size(run, phase, mark) for run in runs]
            known = [(place, size) for place, size in enumerate(sizes) if size is not None]
            if not known:
                continue
            colour = LIGHT[COLOURS[phase]]
            axes.step(*zip(*known, strict=True), where="mid", linewidth=1.6, linestyle=dashes, color=colour)
            ends.append(End(y=known[-1][1], text=f"{phase}, {mark}", colour=colour))
            told.append(_told(f"{phase}, {mark}", [(runs[p].software.of(package), s) for p, s in known]))
            top = max(top, *(size for _, size in known))
    bytes_axis(axes, 0, top * 1.1 or 1, log=False)
    return ends, told


def _size(run: Run, phase: Phase, mark: str) -> int | None:
    observed = run.observed(phase)
    point: Point | None = observed.points[-1] if observed.points and not observed.failed else None
    return None if point is None else int(getattr(point, f"{mark}_bytes"))


def _told(name: str, sizes: Sequence[tuple[str, int]]) -> str:
    """A line in words: its sizes, and from which release on."""
    moved = [sizes[0], *(new for old, new in pairwise(sizes) if old[1] != new[1])]
    return f"{name}: " + ", ".join(f"{size / GB:,.1f} GB from {release} on" for release, size in moved)


def _release_axis(axes: Axes, found: Sequence[Stretch]) -> None:
    """The first release of each stretch, and the last of all."""
    places: list[int] = []
    names: list[str] = []
    place = 0
    total = sum(len(stretch.runs) for stretch in found)
    for stretch in found:
        if not places or (place - places[-1]) / total >= LEAST_APART:
            places.append(place)
            names.append(stretch.first.software.of(stretch.package))
        place += len(stretch.runs)
    if total - 1 > places[-1] and (total - 1 - places[-1]) / total >= LEAST_APART:
        places.append(total - 1)
        names.append(found[-1].last.software.of(found[-1].package))
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FixedFormatter(names))
    axes.tick_params(axis="x", labelrotation=60, labelsize=SMALL)
