"""A stalled run is killed and prints its stacks; one that is slow, suspended or waiting is not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.atomic_files import read_jsonl
from tests import forked
from tests.fake_hub import running
from tests.trainer.process.test_signals import REPOSITORY, status_of, status_once_ended, wait_for
from tests.trainer.publish.test_uploader import be_ann
from trainer.heartbeat import Heartbeat
from trainer.process.signals import StopSignal
from trainer.process.watchdog import FIRST_SECONDS, STALL_FACTOR, Watchdog
from trainer.process.watchdog_process import LAYOUT, MAX_POLL_SECONDS, HeartbeatState, watch

Losses = Callable[[Path], dict[int, str]]

STALL = """
import time
from trainer.process.watchdog import Watchdog

def stalls():
    {how}

dog = Watchdog({seconds})
dog.feed(); dog.feed()
stalls()
"""
# the second holds Python's lock: no thread of Python would get a word in
WAYS = {"waits": "time.sleep(60)", "computes": "sum(range(10 ** 11))"}


def run_code(code: str, log: Path) -> int | None:
    """Run code in a forked process, and return its exit status."""
    process = forked.start(forked.Program(work=partial(exec, code, {}), out=log, err=log))
    process.join(60)
    status: int | None = process.exitcode
    return status


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for what a watchdog process does after the process that it watched has ended."""
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS.keys())
def test_a_process_that_stalls_is_killed_and_prints_its_stacks(how: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    began = time.monotonic()
    assert run_code(STALL.format(how=how, seconds=0.5), log) == -signal.SIGKILL
    wait_until(lambda: "loop.stall_seconds" in log.read_text())
    assert "in stalls" in log.read_text()
    assert "in an update (limit 0.5 s) and was killed" in log.read_text()
    assert time.monotonic() - began < 30


def test_a_limit_of_zero_is_no_limit(tmp_path: Path) -> None:
    assert run_code(STALL.format(how="time.sleep(2)", seconds=0.0), tmp_path / "log") == 0
    assert (tmp_path / "log").read_text() == ""


def test_a_process_that_hangs_while_python_shuts_down_is_ended() -> None:
    # from nothing: a fork runs no functions of atexit
    code = """
import time
from trainer.process import watchdog

class Hangs:
    def __del__(self, sleep=time.sleep):
        sleep(60)

watchdog.EXIT_SECONDS = 0.5
dog, hangs = watchdog.Watchdog(60.0), Hangs()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=REPOSITORY
    )
    assert done.returncode == -signal.SIGKILL
    assert "in the end of the process" in done.stderr


def feed_for_three_seconds() -> None:
    """Feed a watchdog of a limit of one second."""
    dog = Watchdog(1.0)
    print("begun", flush=True)
    for _ in range(30):
        dog.feed()
        time.sleep(0.1)


def test_a_process_that_was_suspended_continues_when_it_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = forked.start(forked.Program(work=feed_for_three_seconds, out=out, err=out))
    wait_for(lambda: out.exists() and "begun" in out.read_text(), process)
    os.kill(process.pid, signal.SIGSTOP)  # Ctrl-Z, `scontrol suspend`, a debugger
    time.sleep(3)
    os.kill(process.pid, signal.SIGCONT)
    process.join(20)
    assert process.exitcode == 0, out.read_text()


def test_what_ends_with_a_process_is_its_watchdog_process_and_not_what_it_started(
    tmp_path: Path,
) -> None:
    code = """
import os
from trainer.process.watchdog import Watchdog
dog = Watchdog(60.0)
left = os.fork() or os.execvp("sleep", ["sleep", "60"])
print(dog._process.pid, left, flush=True)
"""
    assert run_code(code, tmp_path / "log") == 0
    watchdog, left = map(int, (tmp_path / "log").read_text().split())
    try:
        wait_until(lambda: not Path(f"/proc/{watchdog}").exists())
        assert Path(f"/proc/{left}").exists()
    finally:
        os.kill(left, signal.SIGKILL)


@pytest.fixture
def dog(monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    """Return a watchdog without a process, which would watch the tests."""
    monkeypatch.setattr("trainer.process.watchdog.subprocess.Popen", lambda *_, **__: None)
    monkeypatch.setattr("trainer.process.watchdog.faulthandler.register", lambda *_, **__: None)
    monkeypatch.setattr("trainer.process.watchdog.atexit.register", lambda _: None)
    return Watchdog(60.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list of one: the time that everybody knows."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def allowed(dog: Watchdog) -> float:
    """Return the seconds that the watchdog process reads."""
    return HeartbeatState(*LAYOUT.unpack(dog._shared)).allowed


def test_the_first_pass_has_ten_minutes_and_the_next_five_times_the_slowest(
    dog: Watchdog, clock: list[float]
) -> None:
    alone: Any = SimpleNamespace(num_processes=1)
    heartbeat, batch = (
        Heartbeat(alone, StopSignal(), dog),
        [SimpleNamespace(tokens=[3], seconds=[1.0])] * 2,
    )
    for took, limit in ((30.0, FIRST_SECONDS), (1.0, STALL_FACTOR * 30), (40.0, STALL_FACTOR * 30)):
        heartbeat.begin_update(batch[:1], 0)
        clock[0] += 0.01
        for _ in heartbeat.watch(batch[:1]):  # an update of one pass, as most are
            assert allowed(dog) == limit
            clock[0] += took
        heartbeat.end_update()
        assert allowed(dog) == 0
        clock[0] += 5000  # an evaluation, and whatever else may take any time
    heartbeat.begin_update(batch, 0)
    for _ in heartbeat.watch(batch):
        assert allowed(dog) == STALL_FACTOR * 40


def test_the_watchdog_is_paused_while_a_process_waits_for_others(
    dog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    alone: Any = SimpleNamespace(num_processes=1)
    heartbeat, batch = (
        Heartbeat(alone, StopSignal(), dog),
        [SimpleNamespace(tokens=[3], seconds=[1.0])],
    )

    def sums(_: Any, values: list[float]) -> list[float]:
        seen.append(allowed(dog))
        return [*values[:-1], 1.0] if len(values) > 1 else values  # the last says it is slow

    monkeypatch.setattr("trainer.heartbeat.sum_over_processes", sums)
    for _ in range(2):
        heartbeat.begin_update(batch, 0)  # type: ignore[arg-type]
        list(heartbeat.watch(batch))  # type: ignore[arg-type]
        heartbeat.beat()
        heartbeat.beat()
    assert seen == [0.0] * 8


def test_a_late_check_counts_for_one_second(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[float] = []

    def sleep(_: float) -> None:
        clock[0] += 3600  # the machine slept, or the whole container was suspended
        checks.append(clock[0])

    monkeypatch.setattr("trainer.process.watchdog_process.time.sleep", sleep)
    monkeypatch.setattr("trainer.process.watchdog_process._kill", lambda *_: "killed")
    state = HeartbeatState(feeds=1, allowed=7.5, exit=0, where=b"")
    parent: Any = SimpleNamespace(state=state, has_exited=False, is_suspended=False)
    assert watch(parent, "") == "killed"
    assert len(checks) == 8
    assert MAX_POLL_SECONDS == 1.0


def stop_itself(note: Path, place: str) -> None:
    """Have the second process stop itself in its third update: in a data wait, or in a pass."""
    import trainer.loop
    import trainer.model

    owner, name = {
        "data": (trainer.loop, "fetch"),
        "pass": (trainer.model.TrainingModule, "forward"),
    }[place]
    work, calls = getattr(owner, name), iter(range(10**9))

    def stopping(*arguments: Any, **more: Any) -> Any:
        if next(calls) == 2 and os.environ["RANK"] == "1":
            note.write_text("stopped")
            os.kill(os.getpid(), signal.SIGSTOP)
        return work(*arguments, **more)

    setattr(owner, name, stopping)


def test_a_process_waits_for_another_that_is_slow_with_its_data(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    whole = trainer.reference(processes=2)
    run, note = tmp_path / "run", tmp_path / "note"
    sabotage = partial(stop_itself, note, "data")
    both = trainer.start(run, "--loop.stall_seconds=4", processes=2, sabotage=sabotage)
    wait_for(note.exists, both[1])
    time.sleep(9)
    os.kill(both[1].pid, signal.SIGCONT)
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0], (tmp_path / "run.0.log").read_text()
    assert losses(run) == losses(whole)


def test_a_process_ends_where_another_stalls_within_an_update(trainer: Any, tmp_path: Path) -> None:
    run, note = tmp_path / "run", tmp_path / "note"
    sabotage = partial(stop_itself, note, "pass")
    first, _ = trainer.start(run, "--loop.stall_seconds=2", processes=2, sabotage=sabotage)
    first.join(60)
    assert first.exitcode == -signal.SIGKILL
    output = (tmp_path / "run.0.log").read_text()
    assert "trainer/loop.py" in output  # where it stood
    ended = status_once_ended(run)
    wait_until(lambda: "stalled: process 0" in (tmp_path / "run.0.log").read_text())
    assert (ended["status"], ended["exit"]) == ("stalled", 1)
    assert "made no progress" in ended["reason"]


def test_when_one_process_dies_the_other_ends_at_once(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    run = tmp_path / "run"
    first, second = trainer.start(run, "--loop.max_steps=100000", processes=2)
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(losses(run)) >= 4, first)
    os.kill(second.pid, signal.SIGKILL)
    first.join(20)
    assert first.exitcode == 1
    assert status_of(run)["status"] == "failed"


def impatient(seconds: float, window_seconds: float = 0.0) -> None:
    """Have an evaluation watched for so long instead of ten minutes; windows take their time."""
    from transformers.models.whisper import generation_whisper

    Watchdog.first_seconds = property(lambda _: seconds)  # type: ignore[method-assign, assignment]
    mixin = generation_whisper.WhisperGenerationMixin
    decode, windows = mixin.generate_with_fallback, iter(range(10**9))

    def slowly(*arguments: Any, **more: Any) -> Any:
        time.sleep(window_seconds if next(windows) < 6 else 0)  # the first recording is enough
        return decode(*arguments, **more)

    mixin.generate_with_fallback = slowly


@pytest.fixture
def slow_hub() -> Iterator[Any]:
    """Return a server in the Hub's place that does not answer for now."""
    with running() as server:
        server.hold.clear()
        yield server
        server.hold.set()


def test_a_finished_run_that_uploads_is_not_watched(
    slow_hub: Any, trainer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    knobs = ("--data.test_split=test", "--eval.max_length=4", "--eval.pad=bucket")
    knobs += ("--loop.max_steps=1", "--publish.repo=digits", "--loop.stall_seconds=2")
    (process,) = trainer.start(run, *knobs, sabotage=partial(uploading, slow_hub.url))
    wait_for((run / "plots").exists, process)  # the last evaluation is through
    time.sleep(10)
    slow_hub.hold.set()
    process.join(60)
    assert process.exitcode == 0, (tmp_path / "run.0.log").read_text()
    assert status_of(run)["status"] == "finished"
    assert slow_hub.repos["ann/digits"]


def uploading(url: str) -> None:
    """Talk to a server in the Hub's place, and have an evaluation watched for five seconds."""
    be_ann(url)
    impatient(5.0)


def test_a_long_recording_shows_progress_window_by_window(
    trainer: Any, copied: Path, write_clip: Callable[..., Path], tmp_path: Path
) -> None:
    name = "common_voice_en_dev_000.mp3"
    write_clip(copied / "clips" / name, 180.0, 48_000)
    durations = (copied / "clip_durations.tsv").read_text().splitlines()
    changed = [f"{name}\t180000" if row.startswith(name) else row for row in durations]
    (copied / "clip_durations.tsv").write_text("\n".join(changed) + "\n")
    run, patience = tmp_path / "run", 8.0  # for a window; the six of them take 12
    knobs = ("--data.dev_split=dev", "--eval.max_length=4", "--loop.max_steps=1")
    trainer(
        run,
        "--data.corpus",
        str(copied),
        *knobs,
        "--loop.stall_seconds=2",
        sabotage=partial(impatient, patience, 2.0),
    )
    (first, *_) = run.glob("eval/*/dev/utterances.jsonl")
    assert max(row["seconds"] for row in read_jsonl(first)) > 179
