"""Two versions of an estimator: what changed, in words, and whether it is worse."""

from collections.abc import Callable

from tests.refereed import campaign, run
from vram_ledger.analysis.estimating.breakdown import Breakdown, Request, added_up
from vram_ledger.analysis.estimators import fitmygpu, kvanta
from vram_ledger.analysis.refereeing.changes import changes, worse
from vram_ledger.analysis.refereeing.referee import scored


def versions(before: Callable[[Request], Breakdown], now: Callable[[Request], Breakdown]) -> list[str]:
    old, new = (scored(name, e, campaign()) for name, e in (("before", before), ("now", now)))
    return changes(old.errors, new.errors)


def changed_kvanta(
    kv_factor: Callable[[int], float] = lambda c: 1.0, weights: int = 0
) -> Callable[[Request], Breakdown]:
    def estimate(request: Request) -> Breakdown:
        answer = kvanta.estimate(request)
        kv_cache = (answer.kv_cache_bytes or 0) * kv_factor(request.context_tokens)
        return added_up("allocated", weights=answer.weights_bytes + weights, kv_cache=kv_cache)

    return estimate


def test_a_change_everywhere_is_said_in_one_amount() -> None:
    before, now = changed_kvanta(), changed_kvanta(weights=-849_415_680)
    assert "weights better by 0.85 GB everywhere" in versions(before, now)


def test_a_change_at_one_context_is_said_with_the_context() -> None:
    before, now = changed_kvanta(), changed_kvanta(lambda c: 1.03 if c == 262_144 else 1.0)
    assert "kv_cache 262,144 tokens worse by 3 %" == versions(before, now)[0]


def test_nothing_changed_between_a_version_and_itself() -> None:
    assert [] == versions(kvanta.estimate, kvanta.estimate)


def test_a_term_that_is_new_or_gone_is_said() -> None:
    lines = versions(kvanta.estimate, fitmygpu.estimate)
    assert ["recurrent_state is no longer given", "rest is new"] == [
        line for line in lines if line in ("recurrent_state is no longer given", "rest is new")
    ]


def test_a_worse_version_exits_with_1_and_says_why() -> None:
    last = run("fitmygpu", "--base", "kvanta").stdout.splitlines()[-1]
    assert last.startswith("exit 1: worse than kvanta on qwen3.5-27b: median error of the total from 0.8")


def test_a_better_version_exits_with_0() -> None:
    assert 0 == run("ours", "--base", "fitmygpu").exit_code


def test_a_version_is_not_worse_than_itself() -> None:
    own = scored("kvanta", kvanta.estimate, campaign()).errors
    assert "" == worse(own, own)
