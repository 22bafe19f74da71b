"""Records survive the disk, and a file that is not as written is refused with its line."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.conftest import CONFIGURATION
from vram_ledger.harness.lines import from_line, read, to_line
from vram_ledger.harness.records import (
    AllocatorProbe,
    Environment,
    Failure,
    Held,
    Kernels,
    LiveTensor,
    Measured,
    Measurement,
    OutOfMemory,
    Peak,
    PeakSite,
    RecordError,
    Standard,
    Workload,
)

ENVIRONMENT = Environment(
    device="cuda",
    gpu_label="h200",
    gpu_name="NVIDIA H200",
    gpu_uuid="0c1e",
    gpu_total_bytes=150_000_000_000,
    gpu_capability="9.0",
    mig=None,
    driver="580.1",
    cuda="13.0",
    torch="2.11.0+cu130",
    transformers="5.17.0",
    triton="3.6.0",
    fla="0.6.0",
    causal_conv1d=None,
    allocator_settings="",
    allocator=(AllocatorProbe(asked_bytes=511, allocated_bytes=512, reserved_bytes=2_097_152),),
    weights="random",
    config_sha256="aa",
    grid_sha256="bb",
    python="3.12.3",
    platform="Linux x86_64",
)
WORKLOAD = Workload(configuration=CONFIGURATION, phase="decode", context_tokens=4096, batch=2)
PEAK = Peak(requested_bytes=5, allocated_bytes=6, reserved_bytes=7, process_bytes=None, device_bytes=9)
MEASURED = Measured(
    weights_bytes=1,
    buffers_bytes=2,
    baseline_bytes=3,
    held_bytes=4,
    held=Held(kv_cache_bytes=1, recurrent_state_bytes=2, conv_state_bytes=3, logits_bytes=4, inputs_bytes=5),
    cold=None,
    warm=PEAK,
    site=PeakSite(
        stage="mlp",
        op="mm",
        module="m",
        source="f.py:1",
        largest=(LiveTensor(bytes=8, shape=(2, 2), dtype="bfloat16", op="mm", module="m", source="f.py:1"),),
    ),
    kernels=Kernels(delta_rule="fla.x", convolution=None, attention="a", norm="n"),
    setup_s=0.5,
    cold_s=None,
    warm_s=1.0,
    neighbour_bytes=0,
)
OUTCOMES = [
    MEASURED,
    dataclasses.replace(MEASURED, cold=PEAK, cold_s=2.0),
    OutOfMemory(during="warm", asked_bytes=10, free_bytes=None, requested_bytes=3),
    Failure(reason="hang", message="no answer within 5 s"),
]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_measurement_survives_the_disk(outcome: Measured | OutOfMemory | Failure) -> None:
    measurement = Measurement(workload=WORKLOAD, repeat=1, outcome=outcome)
    assert measurement == from_line(to_line(measurement), "here")


def test_environment_and_standard_survive_the_disk() -> None:
    standard = Standard(when="end", probes=ENVIRONMENT.allocator, workspace_bytes=33_554_432, context_bytes=None)
    assert [ENVIRONMENT, standard] == [from_line(to_line(r), "here") for r in (ENVIRONMENT, standard)]


def test_fingerprint_does_not_depend_on_what_is_only_told() -> None:
    elsewhere = dataclasses.replace(ENVIRONMENT, python="3.13.0", platform="Linux aarch64")
    assert ENVIRONMENT.fingerprint() == elsewhere.fingerprint()


def test_differences_name_the_fields() -> None:
    assert ("driver", "fla") == ENVIRONMENT.differences(dataclasses.replace(ENVIRONMENT, driver="581", fla=None))


def test_every_deciding_field_moves_the_fingerprint() -> None:
    told_only = {"python", "platform"}
    names = {f.name for f in dataclasses.fields(Environment)} - told_only
    changed = {n: "fake" if n == "device" else () if n == "allocator" else "changed" for n in names}
    prints = {dataclasses.replace(ENVIRONMENT, **{n: v}).fingerprint() for n, v in changed.items()}  # type: ignore[arg-type]
    assert len(names) == len(prints - {ENVIRONMENT.fingerprint()})


def written(path: Path, *lines: str) -> Path:
    """A results file with these lines."""
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    line = to_line(Measurement(workload=WORKLOAD, repeat=0, outcome=MEASURED))
    file = written(tmp_path / "r.jsonl", to_line(ENVIRONMENT), line, line[:50])
    assert 1 == len(read(file).measurements)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["\n"], ":1: not JSON"),
        (["{}\n"], ":1: unknown kind None"),
        (
            [to_line(ENVIRONMENT).replace('"schema":2', '"schema":99')],
            ":1: schema 99, but this version reads schema 1 to 2",
        ),
        ([to_line(Measurement(workload=WORKLOAD, repeat=0, outcome=MEASURED))], "the first line is not an environment"),
        ([to_line(ENVIRONMENT), to_line(ENVIRONMENT)], ":2: a second environment"),
        ([to_line(ENVIRONMENT), '{"kind":"measurement","repeat":0}\n'], "missing field workload, outcome"),
        ([], "the first line is not an environment"),
    ],
)
def test_file_that_is_not_as_written_is_refused(tmp_path: Path, lines: list[str], said: str) -> None:
    file = written(tmp_path / "r.jsonl", *lines)
    with pytest.raises(RecordError) as caught:
        read(file)
    assert f"{file}" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("value", [1.5, "1", True, None])
def test_bytes_are_whole_numbers(value: object) -> None:
    data = json.loads(to_line(Measurement(workload=WORKLOAD, repeat=0, outcome=MEASURED)))
    data["outcome"]["held_bytes"] = value
    with pytest.raises(RecordError, match=r"outcome\.held_bytes: expected int"):
        from_line(json.dumps(data), "here")


def test_decode_step_ends_with_one_more_token_than_its_context() -> None:
    assert (4097, 1) == (WORKLOAD.cached_tokens, WORKLOAD.input_tokens)
