"""Measured, emulated and replayed are told apart, and what was made from each says so."""

import dataclasses
import typing
from pathlib import Path

import pytest

from tests.synthetic import ENVIRONMENT, SHAPES, campaign
from vram_ledger.analysis.calibrating.calibration import make_calibration, write_calibration
from vram_ledger.analysis.calibrating.published import calibrations_table
from vram_ledger.analysis.evidence.tables import markdown
from vram_ledger.analysis.ground.kinds import KINDS, PREDICTED, WORDS, kind_of, kinds_of, predicted_banner
from vram_ledger.analysis.judging.drift import all_fitted_terms, judge
from vram_ledger.harness.records import DeviceKind

DEVICES = typing.get_args(DeviceKind)
LABELS = {"cuda": "h100", "emulated": "emulated-h100", "fake": "fake-h100"}


def on(device: str) -> typing.Any:
    """The synthetic environment on a kind of device."""
    return dataclasses.replace(ENVIRONMENT, device=device, gpu_label=LABELS[device])  # type: ignore[arg-type]


def test_every_device_has_a_kind_of_its_own() -> None:
    assert set(DEVICES) == set(KINDS)
    assert len(DEVICES) == len({kind.word for kind in KINDS.values()})


def test_only_a_card_needs_no_banner() -> None:
    assert ["cuda"] == [device for device in DEVICES if not KINDS[device].banner]


@pytest.mark.parametrize("device", LABELS)
def test_the_card_is_meant_whatever_stands_in_for_it(device: str) -> None:
    assert "h100" == on(device).card


def test_kinds_of_several_are_listed_once_and_the_most_certain_first() -> None:
    environments = [on(device) for device in ("fake", "cuda", "emulated", "fake")]
    assert ["measured", "emulated", "replayed"] == [kind.word for kind in kinds_of(environments)]


@pytest.mark.parametrize(
    ("device", "first"),
    [
        ("fake", "**FAKE DEVICE — replayed, not measured**"),
        ("emulated", "**EMULATED CARD — no kernels, not measured**"),
        ("cuda", "h100 · torch"),
    ],
)
def test_markdown_of_verdicts_opens_with_the_banner_of_its_kind(device: str, first: str) -> None:
    own = campaign(environment=on(device))
    assert markdown(own.environment, judge(own, SHAPES)).startswith(first)


def test_readme_says_of_every_calibration_what_it_was_fitted_to(tmp_path: Path) -> None:
    for device, label in LABELS.items():
        own = campaign(environment=on(device))
        name = "qwen3.5-27b.calibration.json"
        (tmp_path / label).mkdir()
        made = make_calibration(own, all_fitted_terms(own), judge(own, SHAPES), name)
        write_calibration(made, tmp_path / label / name)
    where = [row.split("|")[1].strip() for row in calibrations_table(tmp_path).splitlines()[2:]]
    assert ["emulated-h100 (emulated)", "fake-h100 (replayed)", "h100"] == where


@pytest.mark.parametrize(
    ("words", "banner"),
    [
        (["replayed"], PREDICTED),
        (["replayed", "emulated"], "PREDICTED — emulated, replayed, not measured"),
        (["replayed", "measured"], "PREDICTED — measured, replayed"),
        (["measured", "measured"], "PREDICTED — measured"),
    ],
)
def test_a_prediction_s_banner_follows_its_sources(words: list[typing.Any], banner: str) -> None:
    assert banner == predicted_banner(words)


def test_what_was_typed_in_is_never_a_plain_counter() -> None:
    names = [kind_of(on("emulated")).counter(name) for name in ("requested", "allocated", "reserved", "process")]
    assert ["requested", "allocated", "reserved", "process, context typed in"] == names


def test_words_are_those_of_the_kinds() -> None:
    assert set(WORDS) == {kind.word for kind in KINDS.values()}
