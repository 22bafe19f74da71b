"""A planted wrong estimator is named by what it got wrong."""

from collections.abc import Callable

import pytest

from tests.refereed import campaign
from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.estimating.ours import exact_terms
from vram_ledger.analysis.refereeing.referee import scored
from vram_ledger.analysis.refereeing.suspects import named


def planted(**changes: Callable[[Request, dict[str, int]], float]) -> dict[str, str]:
    """What the term table says about the exact terms with some of them changed."""

    def estimate(request: Request) -> Breakdown:
        answer = exact_terms(request)
        names = ("weights", "kv_cache", "recurrent_state", "conv_state")
        terms = {name: getattr(answer, f"{name}_bytes") for name in names}
        return added_up("requested", **terms | {name: change(request, terms) for name, change in changes.items()})

    return named([e for e in scored("planted", estimate, campaign()).errors if e.term != "total"])


def test_kv_on_all_64_layers_is_named() -> None:
    assert {"kv_cache": "KV on all 64 layers instead of 16"} == planted(kv_cache=lambda r, t: 4 * t["kv_cache"])


def test_a_state_in_bf16_is_named() -> None:
    expected = {"recurrent_state": "recurrent state in bf16", "state": "state in bf16"}
    assert expected == planted(recurrent_state=lambda r, t: t["recurrent_state"] / 2)


def test_gib_for_gb_is_named_in_every_term() -> None:
    found = planted(
        **{
            name: lambda r, t, name=name: t[name] / 2**30 * 1e9
            for name in ("weights", "kv_cache", "recurrent_state", "conv_state")
        }
    )
    assert ["GiB for GB"] * 5 == list(found.values())


def test_two_faults_in_one_term_are_named_together() -> None:
    found = planted(kv_cache=lambda r, t: 4 * t["kv_cache"] / 2**30 * 1e9)
    assert {"kv_cache": "KV on all 64 layers instead of 16, and GiB for GB"} == found


def test_the_exact_terms_are_not_suspected() -> None:
    assert {} == planted()


def test_a_number_that_no_assumption_gives_is_not_named() -> None:
    assert {} == planted(kv_cache=lambda r, t: 1.7 * t["kv_cache"] + r.context_tokens**1.5)


@pytest.mark.parametrize(
    ("term", "change", "name"),
    [
        ("weights", lambda r, t: 1.02 * t["weights"], "+2.0 % at every point"),
        ("weights", lambda r, t: t["weights"] / 4, "weights in 4 bits"),
        ("weights", lambda r, t: 2 * t["weights"], "weights in 32 bits"),
        ("kv_cache", lambda r, t: 1.7 * t["kv_cache"], "+70.0 % at every point"),
        ("kv_cache", lambda r, t: 0, "no KV"),
        ("kv_cache", lambda r, t: t["kv_cache"] / r.batch, "KV of one sequence only"),
        (
            "kv_cache",
            lambda r, t: 3 * t["kv_cache"],
            "KV on the 48 linear layers instead of the 16 others or 12 KV heads instead of 4",
        ),
        (
            "kv_cache",
            lambda r, t: 4 * t["kv_cache"] / r.batch,
            "KV on all 64 layers instead of 16, of one sequence only",
        ),
        ("recurrent_state", lambda r, t: t["recurrent_state"] / r.batch, "recurrent state of one sequence only"),
        (
            "recurrent_state",
            lambda r, t: t["recurrent_state"] / 2 / r.batch,
            "recurrent state in bf16, of one sequence only",
        ),
        ("conv_state", lambda r, t: t["conv_state"] / r.batch, "conv state of one sequence only"),
        ("conv_state", lambda r, t: t["conv_state"] + 10**9, "+1.000 GB at every point"),
    ],
)
def test_a_planted_assumption_is_named(
    term: str, change: Callable[[Request, dict[str, int]], float], name: str
) -> None:
    assert name == planted(**{term: change})[term]


def test_a_state_of_one_sequence_is_named_where_the_two_states_are_one() -> None:
    def estimate(request: Request) -> Breakdown:
        whole = exact_terms(request)
        state = ((whole.recurrent_state_bytes or 0) + (whole.conv_state_bytes or 0)) / request.batch
        return added_up("requested", weights=whole.weights_bytes, state=state)

    assert "the state of one sequence only" == named(scored("planted", estimate, campaign()).errors)["state"]
