"""One process trains a run at a time."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.errors import InputError
from tests import forked
from tests.forked import run_module
from tests.trainer.process.test_signals import ENDLESS, wait_for
from trainer.process.run_lock import LOCK, locked


def hold(folder: Path) -> None:
    """Hold a run's lock, print the process id of a forked worker, and wait."""
    with locked(folder):
        fork = multiprocessing.get_context("fork")
        worker = fork.Process(target=time.sleep, args=(600,), daemon=True)
        worker.start()
        print(worker.pid, flush=True)
        time.sleep(600)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[Any, int]]:
    """Yield a process that holds a run's lock and has a forked worker, and the worker's pid."""
    log = tmp_path / "log"
    work = partial(hold, tmp_path / "run")
    process = forked.start(forked.Program(work=work, out=log, err=log))
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"), process)
    worker = int(log.read_text())
    yield process, worker
    with suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)


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
    process.join()
    os.kill(worker, 0)  # it lives
    with locked(tmp_path / "run"):
        held = json.loads((tmp_path / "run" / LOCK).read_text(encoding="utf-8"))
    assert held["pid"] == os.getpid()


def test_other_ranks_take_no_lock(
    holder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with locked(tmp_path / "run"):
        assert holder[0].is_alive()


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
    holder[0].join()
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
    run, exit_file = tmp_path / "run", tmp_path / "exit"
    (first,) = trainer.start(run, *ENDLESS)
    environment = {"ACCELERATE_USE_CPU": "true", "WHISPER_LOOP_EXIT": str(exit_file)}
    try:
        wait_for((run / "metrics.jsonl").exists, first)
        status = (run / "status.json").read_text(encoding="utf-8")
        for resume in ((), ("--resume=auto",)):
            arguments = trainer.arguments(run, *ENDLESS, *resume)
            done = run_module("trainer", *arguments, **environment)
            assert done.returncode == 2
            assert exit_file.read_text().split() == ["2"]  # launch.sh exits with it
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
