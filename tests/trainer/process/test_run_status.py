"""status.json records how a run ended, even if the run could not write it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import descendants, started
from tests.trainer.process.test_signals import (
    BIN,
    ENDLESS,
    LAUNCHERS,
    status_of,
    status_once_ended,
    trains,
    wait_for,
)
from trainer.process.run_status import record_status
from trainer.process.signals import STOPPED, Stopped
from trainer.process.watchdog_process import KILLED, write_killed_status

Losses = Callable[[Path], dict[int, str]]


def watchdog_of(pid: int) -> int:
    """Return the process that watches one."""
    (found,) = [
        below
        for below in descendants(pid)
        if b"watchdog_process.py" in Path(f"/proc/{below}/cmdline").read_bytes()
    ]
    return found


def test_a_start_that_is_killed_does_not_say_that_it_runs(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    run = tmp_path / "run"
    (process,) = trainer.start(run, *ENDLESS)
    wait_for(trains(run, losses), process)
    watchdog = watchdog_of(process.pid)
    before = status_of(run)
    os.kill(process.pid, signal.SIGKILL)
    ended = status_once_ended(run)
    assert (ended["status"], ended["exit"]) == ("killed", KILLED)
    assert ended["ended"] > before["started"] == ended["started"]
    deadline = time.monotonic() + 5
    while Path(f"/proc/{watchdog}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_next_start_says_so_where_nobody_was_left_to(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    run = tmp_path / "run"
    (process,) = trainer.start(run, *ENDLESS)
    wait_for(trains(run, losses), process)
    os.kill(watchdog_of(process.pid), signal.SIGKILL)  # as a control group is killed, or a machine
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    time.sleep(1)
    assert status_of(run)["status"] == "running"
    done = trainer(run, "--resume=auto", "--loop.max_steps=1")
    assert f"the previous start (process {process.pid}) did not record how it ended" in done.output
    status = status_of(run)
    assert status["status"] == "finished"
    assert (status["previous"]["status"], status["previous"]["exit"]) == ("killed", KILLED)
    trainer(run, "--resume=auto", "--loop.max_steps=1")
    assert status_of(run)["previous"]["status"] == "finished"
    assert "previous" not in status_of(run)["previous"]


@contextmanager
def launched(trainer: Any, run: Path, *extra: str) -> Iterator[subprocess.Popen[str]]:
    """Start a run with launch.sh, and leave nothing of it."""
    recipe = run.parent / "empty.yaml"
    recipe.write_text("seed: 0\n")
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    command = [*LAUNCHERS["launch.sh"], str(recipe), *trainer.arguments(run, *ENDLESS), *extra]
    with started(
        command, cwd=run.parent, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


@pytest.mark.parametrize(
    "watched",
    [
        pytest.param(True, id="alone"),
        pytest.param(False, id="with its watchdog process", marks=pytest.mark.slow),
    ],
)
def test_launch_sh_ends_with_the_status_of_a_trainer_that_was_killed(
    trainer: Any, tmp_path: Path, losses: Losses, watched: bool
) -> None:
    run = tmp_path / "run"
    with launched(trainer, run) as process:
        wait_for(trains(run, losses), process)
        pid = status_of(run)["pid"]
        if not watched:
            os.kill(watchdog_of(pid), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        assert process.wait(30) == KILLED
    assert (status_of(run)["status"], status_of(run)["exit"]) == ("killed", KILLED)


def test_launch_sh_ends_with_2_where_a_mistake_keeps_a_run_from_being_started(
    trainer: Any, tmp_path: Path
) -> None:
    with launched(trainer, tmp_path / "run", "--no.such_key=1") as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "no.such_key" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("status", ["running", "stopped", "finished"])
def test_a_start_that_lives_or_has_said_how_it_ended_is_not_called_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    pid = os.getpid() if status == "running" else 2**22 + 1
    monkeypatch.setattr("trainer.process.watchdog_process.LAUNCHER_WAIT_SECONDS", 0.0)
    path = tmp_path / "status.json"
    path.write_text(json.dumps({"status": status, "pid": pid}))
    write_killed_status(path)
    assert json.loads(path.read_text()) == {"status": status, "pid": pid}


@pytest.mark.parametrize("text", ["", "[]", '{"status": "runn'])
def test_a_status_that_a_power_cut_damaged_hinders_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "status.json"
    path.write_text(text)
    write_killed_status(path)
    assert path.read_text() == text


def test_a_disk_that_is_full_at_the_end_does_not_change_how_a_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHISPER_LOOP_EXIT", str(tmp_path / "told"))

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def stop() -> None:
        with record_status(tmp_path):
            monkeypatch.setattr("trainer.process.run_status.write_json", refuse)
            raise Stopped("stopped at update 3 of 9, saved")

    with pytest.raises(SystemExit) as left:
        stop()
    assert left.value.code == STOPPED
    assert (tmp_path / "told").read_text().splitlines()[0] == str(STOPPED)
    assert "status.json could not be written" in capsys.readouterr().err
