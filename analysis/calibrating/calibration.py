"""The stored calibration: what one campaign's terms were fitted to, generated beside its results file, never edited.

A calibration is compared only with measurements of the same kind of device and the same GPU label: a fake result is
never the measure of a card, nor a card's of a fake one.

Schema history
    1  the first published layout
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vram_ledger.analysis.evidence.fit import Coefficient, Fit
from vram_ledger.analysis.evidence.lines import FittedTerm
from vram_ledger.analysis.evidence.verdict import Decision, Verdict, exit_code, summary
from vram_ledger.analysis.formula.terms import COLUMNS, Regime
from vram_ledger.analysis.ground.files import put, stored
from vram_ledger.errors import InputError, Refused, WrongEnvironment
from vram_ledger.harness.records import Configuration, Environment, ResultsFile, Standard, Workload, encode

SCHEMA = 1


class CalibrationError(InputError):
    """A calibration that can't be read; the message starts with its file."""


class NotCalibrated(Refused):
    """A campaign that can't become a calibration, because its own drift check is red; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedPoint:
    """The bytes that a transient had at one shape."""

    batch: int
    context_tokens: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedTerm:
    """One fitted term. absent: columns of which the fit says nothing. points: of transients, in the campaign's order.

    verdict: of the term in the drift check that the calibration passed. condition: of the scaled design, ``None`` where
    there is none. A transient that too few points fit a card to determine has its points and no coefficients.
    """

    configuration: Configuration
    term: str
    regime: Regime
    coefficients: tuple[Coefficient, ...]
    absent: tuple[str, ...]
    n: int
    dof: int
    condition: float | None
    worst_residual_bytes: float
    verdict: Decision
    points: tuple[CalibratedPoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All fitted terms of one results file and the environment they hold for.

    name: of the calibration's own file, "" before it has one. results_file: the file's name, without folders.
    """

    name: str
    results_file: str
    fingerprint: str
    environment: Environment
    standards: tuple[Standard, ...]
    terms: tuple[CalibratedTerm, ...]

    @property
    def origin(self) -> str:
        """How a verdict names it."""
        return f"calibration {self.name} {self.fingerprint}"


def make_calibration(
    results: ResultsFile, terms: Sequence[FittedTerm], verdicts: Sequence[Verdict], name: str
) -> Calibration:
    """The calibration of a campaign, to be stored as ``name``; :class:`NotCalibrated` if its drift check is red."""
    if exit_code(verdicts):
        raise NotCalibrated(f"{results.path}: not calibrated, its own drift check is red: {summary(verdicts)}")
    return Calibration(
        name=name,
        results_file=results.path.name,
        fingerprint=results.environment.fingerprint(),
        environment=results.environment,
        standards=results.standards,
        terms=tuple(
            _calibrated(term, _decision(term, verdicts))
            for term in terms
            if isinstance(term.fit, Fit) or term.term == "transient"
        ),
    )


def _decision(term: FittedTerm, verdicts: Sequence[Verdict]) -> Decision:
    """EQUIVALENT if a reference was there to agree with; a red one never gets here."""
    of_term = (v for v in verdicts if (v.configuration, v.regime) == (term.configuration, term.regime))
    named = [v.decision for v in of_term if v.term.split()[0] == term.term]
    return "EQUIVALENT" if "EQUIVALENT" in named else "NO_REFERENCE"


def _calibrated(term: FittedTerm, verdict: Decision) -> CalibratedTerm:
    fit = term.fit
    points = tuple(
        CalibratedPoint(batch=s.workload.batch, context_tokens=s.workload.context_tokens, bytes=s.observed_bytes)
        for s in term.samples
    )
    return CalibratedTerm(
        configuration=term.configuration,
        term=term.term,
        regime=term.regime,
        coefficients=fit.coefficients if isinstance(fit, Fit) else (),
        absent=fit.absent if isinstance(fit, Fit) else (),
        n=fit.n,
        dof=fit.dof if isinstance(fit, Fit) else 0,
        # The last bits depend on the machine's linear algebra.
        condition=round(fit.condition, 6) if isinstance(fit, Fit) else None,
        worst_residual_bytes=fit.worst_residual_bytes if isinstance(fit, Fit) else 0.0,
        verdict=verdict,
        points=points if term.term == "transient" else (),
    )


def to_json(calibration: Calibration) -> str:
    """The file's text: sorted keys, so that the same campaign gives the same bytes."""
    data = {"schema": SCHEMA, **encode(calibration)}
    del data["name"]
    return json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Puts the file in place."""
    put(path, to_json(calibration))


def read_calibration(path: Path) -> Calibration:
    """A stored calibration; :class:`CalibrationError` names the file and what in it is not as written."""
    calibration: Calibration = stored(path, Calibration, "calibration", SCHEMA, CalibrationError)
    if calibration.fingerprint != calibration.environment.fingerprint():
        raise CalibrationError(f"{path}: the fingerprint is not that of the environment; was the file edited?")
    return calibration


def comparable(calibration: Calibration, environment: Environment) -> None:
    """:class:`WrongEnvironment`, naming both, if the calibration is of another kind of device or another card."""
    theirs = calibration.environment
    if (theirs.device, theirs.gpu_label) != (environment.device, environment.gpu_label):
        raise WrongEnvironment(
            f"{calibration.name} is for {theirs.device} {theirs.gpu_label}, "
            f"but the measurement is of {environment.device} {environment.gpu_label}"
        )


def stored_points(calibration: Calibration, configuration: Configuration, regime: Regime) -> dict[tuple[int, int], int]:
    """Transient bytes by (batch, context tokens), of the configuration and phase, whatever ran at the peak then."""
    return {
        (p.batch, p.context_tokens): p.bytes
        for t in calibration.terms
        if t.term == "transient" and t.configuration == configuration and t.regime.phase == regime.phase
        for p in t.points
    }


def stored_form(
    calibration: Calibration, configuration: Configuration, term: str, regime: Regime
) -> CalibratedTerm | None:
    """The calibrated term of the regime: the same one, else the only one that differs in the source's line number."""
    forms = [t for t in calibration.terms if t.term == term and t.configuration == configuration]
    same = [t for t in forms if t.regime == regime]
    moved = [t for t in forms if _without_line(t.regime) == _without_line(regime)]
    found = same or (moved if len(moved) == 1 else [])
    return found[0] if found else None


def _without_line(regime: Regime) -> tuple[str | None, str, str, str, str]:
    return regime.phase, regime.batches, regime.stage, regime.op, regime.source.rpartition(":")[0]


def form_bytes(form: CalibratedTerm, batch: int, tokens: int) -> float | None:
    """A transient's bytes by its calibrated form; ``None`` where the calibration's points left it open.

    A merged column is known only where its columns keep their ratio, an absent one only where it is zero.
    """
    if not form.coefficients or any(COLUMNS[name](batch, tokens) for name in form.absent):
        return None
    total = 0.0
    for coefficient in form.coefficients:
        first = COLUMNS[coefficient.shares[0].column](batch, tokens)
        if any(COLUMNS[s.column](batch, tokens) != s.times * first for s in coefficient.shares):
            return None
        total += coefficient.value * first
    return total


def predicted_transient(
    calibration: Calibration, regime: Regime, workload: Workload, logits_bytes: int
) -> tuple[float, CalibratedTerm] | None:
    """Transient bytes that the calibration expects, and the form that gave them; ``None`` if it can't say.

    For a regime that the calibration does not have: the largest of its forms of that phase. The peak is a maximum
    over code paths, so a new one at the peak is a change in as far as it is higher. A peak in the head has the
    logits (``logits_bytes``) beside its transient, so they count where the maximum is taken.
    """
    form = stored_form(calibration, workload.configuration, "transient", regime)
    forms = [form] if form else _phase_forms(calibration, workload.configuration, regime)
    known = [
        (value + _logits_beside(f.regime, logits_bytes), f)
        for f in forms
        if (value := form_bytes(f, workload.batch, workload.context_tokens)) is not None
    ]
    if not known:
        return None
    highest, found = max(known, key=lambda pair: pair[0])
    return highest - _logits_beside(regime, logits_bytes), found


def _phase_forms(calibration: Calibration, configuration: Configuration, regime: Regime) -> list[CalibratedTerm]:
    return [
        t
        for t in calibration.terms
        if (t.term, t.configuration, t.regime.phase, t.regime.batches)
        == ("transient", configuration, regime.phase, regime.batches)
    ]


def _logits_beside(regime: Regime, logits_bytes: int) -> int:
    return logits_bytes if regime.stage == "lm_head" else 0
