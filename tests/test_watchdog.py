"""A run that stands still ends with its stacks; a slow one does not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.watchdog import FIRST_SECONDS, SLOWEST, Watchdog

STALL = """
import time
from trainer.watchdog import Watchdog

def stands_still():
    {how}

dog = Watchdog(0.5)
dog.feed(); dog.feed()
stands_still()
"""
# the second holds Python's lock: no thread of Python would get a word in
WAYS = {"waits": "time.sleep(60)", "computes": "print(len(str(10 ** 3_000_000 + 7) * 100_000))"}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS.keys())
def test_a_process_that_stands_still_ends_with_its_stacks(how: str) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", STALL.format(how=how)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "stands_still" in done.stderr
    assert time.monotonic() - began < 30


def test_a_slow_machine_gets_more_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    now = iter([100.0, 130.0, 131.0, 132.0])
    monkeypatch.setattr("trainer.watchdog.time.monotonic", lambda: next(now))
    monkeypatch.setattr(
        "trainer.watchdog.faulthandler.dump_traceback_later",
        lambda seconds, **_: limits.append(seconds),
    )
    dog = Watchdog(60.0)
    for _ in range(3):
        dog.feed()
    dog.feed(7.0)
    assert limits == [FIRST_SECONDS, SLOWEST * 30, SLOWEST * 30, 7.0]


def test_zero_means_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.watchdog.faulthandler.dump_traceback_later", lambda *_: [][0])
    Watchdog(0.0).feed()


@pytest.mark.parametrize("fate", [signal.SIGSTOP, signal.SIGKILL], ids=lambda s: s.name)
def test_when_one_process_stalls_or_dies_the_other_ends(
    trainer: Any, tmp_path: Path, fate: signal.Signals, losses: Callable[[Path], dict[int, str]]
) -> None:
    run = tmp_path / "run"
    extra = ("--loop.stall_seconds=10", "--loop.max_steps=100000")
    first, second = trainer.start(run, *extra, processes=2)
    try:
        while not (run / "metrics.jsonl").exists() or len(losses(run)) < 4:
            assert first.is_alive(), (tmp_path / "run.0.log").read_text()
            time.sleep(0.1)
        os.kill(second.pid, fate)
        first.join(60)
        assert first.exitcode == 1
        told = (tmp_path / "run.0.log").read_text()
        assert "trainer/loop.py" in told  # where it stood: any of an update's collectives
    finally:
        first.kill()
        second.kill()
