"""A worker process that hangs or dies is noticed, named and ended."""

import os
from time import monotonic

import pytest

from harness.child import Child, WorkerFailed
from harness.records import Failure


def stub(behaviour: str, monkeypatch: pytest.MonkeyPatch) -> Child:
    """A child that behaves so."""
    monkeypatch.setenv("STUB", behaviour)
    return Child({}, "tests.workers.stub")


def failure(child: Child, deadline_s: float) -> Failure:
    """The failure that one command ends in."""
    with pytest.raises(WorkerFailed) as caught:
        child.ask({"do": "measure"}, deadline_s)
    child.close()
    assert isinstance(caught.value.outcome, Failure)
    return caught.value.outcome


def test_answer_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    child = stub("echo", monkeypatch)
    assert 5 == child.ask({"do": "measure"}, 60)
    child.close()


def test_hang_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    began = monotonic()
    assert Failure(reason="hang", message="no answer within 1 s") == failure(stub("hang", monkeypatch), 1)
    assert monotonic() - began < 20


def test_death_tells_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = failure(stub("die", monkeypatch), 60)
    assert ("crash", True, True) == (crash.reason, "exited with 7" in crash.message, "off the bus" in crash.message)


def test_killed_worker_names_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = failure(stub("kill", monkeypatch), 60)
    assert "the worker killed by signal 9" == crash.message


def test_closed_child_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    child = stub("hang", monkeypatch)
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
