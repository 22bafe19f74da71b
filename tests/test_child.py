"""A worker process that hangs or dies is noticed, named and ended."""

import os
import signal
from collections.abc import Callable, Iterator
from time import monotonic, sleep

import pytest

from vram_ledger.harness.child import Child, Nurseries, WorkerFailed
from vram_ledger.harness.records import Failure

Stub = Callable[[str], Child]


@pytest.fixture
def nurseries() -> Iterator[Nurseries]:
    """Workers that misbehave as STUB says."""
    started = Nurseries("tests.workers.stub")
    yield started
    started.close()


@pytest.fixture
def stub(nurseries: Nurseries, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Starts a child that behaves so."""

    def started(behaviour: str) -> Child:
        monkeypatch.setenv("STUB", behaviour)
        return nurseries.start({})

    return started


def failure(child: Child, deadline_s: float) -> Failure:
    """The failure that one command ends in."""
    with pytest.raises(WorkerFailed) as caught:
        child.ask({"do": "measure"}, deadline_s)
    child.close()
    assert isinstance(caught.value.outcome, Failure)
    return caught.value.outcome


def test_answer_comes_back(stub: Stub) -> None:
    child = stub("echo")
    assert 5 == child.ask({"do": "measure"}, 60)
    child.close()


def test_hang_ends_at_the_deadline(stub: Stub) -> None:
    began = monotonic()
    assert Failure(reason="hang", message="no answer within 1 s") == failure(stub("hang"), 1)
    assert monotonic() - began < 20


def test_death_tells_its_last_words(stub: Stub) -> None:
    crash = failure(stub("die"), 60)
    assert ("crash", True, True) == (crash.reason, "exited with 7" in crash.message, "off the bus" in crash.message)


def test_killed_worker_names_the_signal(stub: Stub) -> None:
    crash = failure(stub("kill"), 60)
    assert "the worker killed by signal 9" == crash.message


def test_closed_child_is_gone(stub: Stub) -> None:
    child = stub("hang")
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_death_in_the_middle_of_an_answer_is_a_crash(stub: Stub) -> None:
    assert "the worker killed by signal 9" == failure(stub("half"), 60).message


def test_next_worker_of_a_nursery_is_another_process(stub: Stub) -> None:
    first = stub("echo")
    assert 5 == first.ask({"do": "measure"}, 60)
    first.close()
    second = stub("echo")
    assert 5 == second.ask({"do": "measure"}, 60)
    second.close()
    assert first.pid != second.pid


def test_nursery_that_died_is_started_anew(stub: Stub) -> None:
    child = stub("hang")
    os.kill(os.getpgid(child.pid), signal.SIGKILL)
    assert "crash" == failure(child, 60).reason
    again = stub("echo")
    assert 5 == again.ask({"do": "measure"}, 60)
    again.close()


def test_command_to_a_worker_that_died_idle_is_not_the_next_one_s_order(stub: Stub) -> None:
    idle = stub("echo")
    os.kill(idle.pid, signal.SIGKILL)
    sleep(0.2)
    assert "crash" == failure(idle, 60).reason
    again = stub("echo")
    assert 5 == again.ask({"do": "measure"}, 60)
    again.close()
