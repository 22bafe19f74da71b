"""Which rules a machine has, and which machines have none that are modelled."""

import dataclasses

import pytest

from tests.allocated import MIB, alloc, feed, free, usage
from tests.synthetic import ENVIRONMENT
from vram_ledger.analysis.allocation.rules import AllocatorError, Block, CachingAllocator, Segment
from vram_ledger.analysis.allocation.settings import Rules, allocator, probe, rules_of, rules_set
from vram_ledger.harness.records import AllocatorProbe

DEFAULT_PROBES = (
    (511, 512, 2 * MIB),
    (MIB, MIB, 2 * MIB),
    (MIB + 1, MIB + 512, 20 * MIB),
    (10 * MIB, 10 * MIB, 10 * MIB),
    (11 * MIB, 12 * MIB, 12 * MIB),
)
EXPANDABLE_PROBES = (*DEFAULT_PROBES[:3], (10 * MIB, 10 * MIB, 20 * MIB), (11 * MIB, 11 * MIB, 20 * MIB))
PROBES: dict[Rules, tuple[tuple[int, int, int], ...]] = {
    "default": DEFAULT_PROBES,
    "expandable_segments": EXPANDABLE_PROBES,
}


def probed(figures: tuple[tuple[int, int, int], ...]) -> tuple[AllocatorProbe, ...]:
    return tuple(AllocatorProbe(asked_bytes=a, allocated_bytes=b, reserved_bytes=c) for a, b, c in figures)


@pytest.mark.parametrize(
    ("settings", "rules"),
    [
        ("", "default"),
        ("PYTORCH_ALLOC_CONF=", "default"),
        ("PYTORCH_ALLOC_CONF=expandable_segments:False,pinned_use_background_threads:True", "default"),
        ("PYTORCH_ALLOC_CONF=expandable_segments:True,expandable_segments:False,backend:native", "default"),
        ("PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True", "expandable_segments"),
        ("PYTORCH_ALLOC_CONF=pinned_num_register_threads:8,expandable_segments:True", "expandable_segments"),
        (
            "PYTORCH_ALLOC_CONF=expandable_segments:True PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
            "expandable_segments",
        ),
    ],
)
def test_a_machine_has_the_rules_that_its_settings_name_and_its_probes_show(settings: str, rules: Rules) -> None:
    machine = dataclasses.replace(ENVIRONMENT, allocator=probed(PROBES[rules]), allocator_settings=settings)
    assert rules == rules_of(machine)


@pytest.mark.parametrize("rules", PROBES)
def test_a_probe_is_what_an_empty_allocator_does(rules: Rules) -> None:
    assert probed(PROBES[rules]) == tuple(probe(asked, rules) for asked, _, _ in PROBES[rules])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("PYTORCH_ALLOC_CONF=pinned_use_background_threads:True,max_split_size_mb:128", "'max_split_size_mb:128'"),
        (
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,roundup_power2_divisions:[256:1,>:2]",
            "'roundup_power2_divisions:[256:1,>:2]'",
        ),
        ("PYTORCH_ALLOC_CONF=garbage_collection_threshold:0.8", "'garbage_collection_threshold:0.8'"),
        ("PYTORCH_ALLOC_CONF=large_segment_size_mb:40", "'large_segment_size_mb:40'"),
        ("PYTORCH_ALLOC_CONF=per_process_memory_fraction:0.5", "'per_process_memory_fraction:0.5'"),
        ("PYTORCH_ALLOC_CONF=expandable_segments:maybe", "'expandable_segments:maybe'"),
        ("PYTORCH_ALLOC_CONF=backend:cudaMallocAsync", "'backend:cudaMallocAsync'"),
        ("PYTORCH_NO_CUDA_MEMORY_CACHING=", "'PYTORCH_NO_CUDA_MEMORY_CACHING='"),
        ("CUBLAS_WORKSPACE_CONFIG=:4096:8", "'CUBLAS_WORKSPACE_CONFIG=:4096:8'"),
        (
            "PYTORCH_ALLOC_CONF=expandable_segments:False PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
            "sets expandable_segments in two ways",
        ),
    ],
)
def test_a_setting_that_is_not_modelled_is_refused_by_name(settings: str, named: str) -> None:
    with pytest.raises(AllocatorError) as refusal:
        rules_set(settings)
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "probes"),
    [("", EXPANDABLE_PROBES), ("PYTORCH_ALLOC_CONF=expandable_segments:True", DEFAULT_PROBES)],
)
def test_a_machine_that_probed_otherwise_is_refused(settings: str, probes: tuple[tuple[int, int, int], ...]) -> None:
    machine = dataclasses.replace(ENVIRONMENT, allocator=probed(probes), allocator_settings=settings)
    with pytest.raises(AllocatorError, match=r"does not follow the \w+ rules"):
        rules_of(machine)


@pytest.mark.parametrize(("rules", "reserved"), [("default", 54 * MIB), ("expandable_segments", 40 * MIB)])
def test_an_allocator_follows_the_rules_it_is_asked_for(rules: Rules, reserved: int) -> None:
    asked = allocator(rules, capacity_bytes=100 * MIB, total_bytes=100 * MIB)
    assert None is feed(asked, [alloc(1, 16 * MIB), free(1), alloc(2, 38 * MIB)])
    assert usage(38 * MIB, 38 * MIB, reserved) == asked.held


@pytest.mark.parametrize("rules", PROBES)
def test_an_allocator_begins_with_what_it_is_given(rules: Rules) -> None:
    blocks = (Block(bytes=MIB, requested_bytes=3), Block(bytes=19 * MIB, requested_bytes=None))
    begun: CachingAllocator = allocator(rules, segments=[Segment(address=0, small=False, blocks=blocks)])
    assert (usage(3, MIB, 20 * MIB), {MIB: 19 * MIB}) == (begun.held, begun.free_blocks())
