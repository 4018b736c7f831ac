"""One process trains a run at a time."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from data.errors import InputError
from tests.forked import run_module
from tests.trainer.process.test_signals import ENDLESS, wait_for
from trainer.process.run_lock import LOCK, locked

REPOSITORY = Path(__file__).resolve().parents[3]
HOLD = """
import multiprocessing, sys, time
from pathlib import Path
from trainer.process.run_lock import locked

def wait():
    time.sleep(600)

if __name__ == "__main__":
    with locked(Path(sys.argv[1])):
        worker = multiprocessing.get_context("fork").Process(target=wait, daemon=True)
        worker.start()
        print(worker.pid, flush=True)
        time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Yield a process that holds a run's lock and has a forked worker, and the worker's pid."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        yield process, worker
        process.kill()
        with suppress(ProcessLookupError):
            os.kill(worker, 9)


def test_who_comes_second_is_told_who_trains(holder: Any, tmp_path: Path) -> None:
    process, _ = holder
    errors = f"process {process.pid} on {socket.gethostname()}, since .* trains this run"
    with pytest.raises(InputError, match=errors), locked(tmp_path / "run"):
        pytest.fail("locked twice")


def test_the_lock_ends_with_its_process_and_not_with_the_workers(
    holder: Any, tmp_path: Path
) -> None:
    process, worker = holder
    process.kill()
    process.wait()
    os.kill(worker, 0)  # it lives
    with locked(tmp_path / "run"):
        held = json.loads((tmp_path / "run" / LOCK).read_text(encoding="utf-8"))
    assert held["pid"] == os.getpid()


def test_other_ranks_take_no_lock(
    holder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with locked(tmp_path / "run"):
        assert holder[0].poll() is None


def test_where_there_are_no_locks_a_living_process_is_found_all_the_same(
    holder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno
    import fcntl

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(InputError, match=f"process {holder[0].pid} "), locked(tmp_path / "run"):
        pytest.fail("locked twice")
    holder[0].kill()
    holder[0].wait()
    with locked(tmp_path / "run"):
        assert "is on a file system without locks" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"run_dir=.*cannot be written"),
        locked(tmp_path / "file" / "run"),
    ):
        pytest.fail("locked")


def test_a_second_start_changes_nothing(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (first,) = trainer.start(run, *ENDLESS)
    try:
        wait_for((run / "metrics.jsonl").exists, first)
        status = (run / "status.json").read_text(encoding="utf-8")
        for resume in ((), ("--resume=auto",)):
            arguments = trainer.arguments(run, *ENDLESS, *resume)
            done = run_module("trainer", *arguments, ACCELERATE_USE_CPU="true")
            assert done.returncode == 2
            assert f"error: {run}: process {first.pid} on" in done.stderr
            assert "Traceback" not in done.stderr
            assert first.is_alive()
            assert (run / "status.json").read_text(encoding="utf-8") == status
    finally:
        first.kill()
        first.join()


def test_of_two_fresh_starts_one_trains(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = trainer.arguments(run, "--loop.max_steps=2")
    with ThreadPoolExecutor(2) as threads:
        both = [
            threads.submit(run_module, "trainer", *arguments, ACCELERATE_USE_CPU="true")
            for _ in range(2)
        ]
    ended = [each.result() for each in both]
    errors = [each.stderr for each in ended]
    assert sorted(each.returncode for each in ended) == [0, 2], errors
    refused = errors[[each.returncode for each in ended].index(2)]
    # the faster one may have ended when the other looked
    assert "trains this run" in refused or "holds a run already" in refused
    assert "Traceback" not in "".join(errors)
