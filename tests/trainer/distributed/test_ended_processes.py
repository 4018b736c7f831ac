"""A process that exited is detected, and a slow one is waited for."""

import time
from itertools import count

import pytest
from torch.distributed import HashStore

from data.errors import InputError
from eval.main_process import wait_for
from trainer.distributed import ended_processes as liveness
from trainer.distributed.ended_processes import (
    FIRST_TIMEOUT_SECONDS,
    HEARTBEAT_SECONDS,
    TIMEOUT_SECONDS,
    HeartbeatMonitor,
    send_heartbeats,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list with the time that HeartbeatMonitor reads."""
    now = [1000.0]
    monkeypatch.setattr("trainer.distributed.ended_processes.time.monotonic", lambda: now[0])
    return now


def test_a_process_that_counts_is_alive_however_long_nobody_looked(clock: list[float]) -> None:
    store = HashStore()
    others = HeartbeatMonitor(store, "key", [1])
    for seconds in (2.0, 10 * TIMEOUT_SECONDS, 100 * TIMEOUT_SECONDS):
        store.add("key/alive/1", 1)
        clock[0] += seconds
        others.check()


def test_a_process_that_no_longer_counts_has_ended(clock: list[float]) -> None:
    store = HashStore()
    others = HeartbeatMonitor(store, "key", [1, 2])
    for number in count():
        store.add("key/alive/1", 1)
        if number < 10:
            store.add("key/alive/2", 1)
        clock[0] += 2 * HEARTBEAT_SECONDS
        if clock[0] - 1000 > 20 * HEARTBEAT_SECONDS + TIMEOUT_SECONDS:
            break
        others.check()
    with pytest.raises(InputError, match=r"process 2 has not responded for 12\d s"):
        others.check()


def test_a_process_that_has_not_come_yet_is_given_more_time(clock: list[float]) -> None:
    others = HeartbeatMonitor(HashStore(), "key", [1])
    clock[0] += FIRST_TIMEOUT_SECONDS
    others.check()
    clock[0] += 2 * HEARTBEAT_SECONDS
    with pytest.raises(InputError, match="process 1 has not responded for 1802 s"):
        others.check()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (InputError("no such file"), InputError, "^no such file$"),
        (KeyError("a"), RuntimeError, "^process 1 failed: KeyError: 'a'$"),
    ],
)
def test_a_process_says_why_it_fails(
    error: Exception, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.0)
    store = HashStore()
    others = HeartbeatMonitor(store, "key", [1])
    with pytest.raises(type(error)), send_heartbeats(store, "key", 1):
        raise error
    with pytest.raises(kind, match=message):
        wait_for(store, "never", others.check)


def test_signs_of_life_end_with_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.01)
    store = HashStore()
    with send_heartbeats(store, "key", 1):
        time.sleep(0.1)
    beats = store.add("key/alive/1", 0)
    assert beats > 1
    time.sleep(0.05)
    assert store.add("key/alive/1", 0) == beats
