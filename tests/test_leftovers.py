"""No process outlives the tests, however they end."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import started
from tests.forked import REPOSITORY
from tests.trainer.process.test_signals import wait_for

# the second test is killed as a scheduler, a time-out or a person would
TESTS = """
import time
from pathlib import Path
import pytest
from tests.conftest import descendants
from tests.trainer.process.test_signals import ENDLESS, trains, wait_for

@pytest.fixture(scope="session")
def shared():
    return Path("{shared}")  # to make no corpus and no model again

def start(trainer, run, losses):
    (process,) = trainer.start(run, *ENDLESS, "--data.workers=1")
    wait_for(trains(run, losses), process)
    return process.pid, *descendants(process.pid)

def test_fails(trainer, tmp_path, losses):
    pids = start(trainer, tmp_path / "run", losses)
    Path("{folder}", "failed").write_text(" ".join(map(str, pids)))
    assert False

def test_hangs(trainer, tmp_path, losses):
    start(trainer, tmp_path / "run", losses)
    Path("{folder}", "note").touch()
    time.sleep(1000)
"""

# a program that does not die with who started it, and one below it: as launchers are
PROGRAM = """
import subprocess, sys
from pathlib import Path

def test_waits():
    below = "import os; os.system('sleep 99; true')"
    with subprocess.Popen([sys.executable, "-c", below], start_new_session=True) as process:
        Path("{note}").touch()
        process.wait()
"""


def marked(mark: str) -> list[str]:
    """Return the processes that inherited a mark in their environment."""
    commands = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if mark.encode() in (path / "environ").read_bytes():
                commands.append((path / "cmdline").read_text().replace("\0", " "))
    return commands


def inner_tests(tmp_path: Path, shared: Path, *names: str) -> list[str]:
    """Write TESTS, and return the command that runs some of them."""
    path = tmp_path / "test_inner.py"
    path.write_text(TESTS.format(folder=tmp_path, shared=shared))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:xdist"]
    command += ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'base'}"]
    return [*command, *(f"{path}::{name}" for name in names), f"-c={REPOSITORY / 'pyproject.toml'}"]


def wait_until_none_are_left(left: Callable[[], Sequence[object]]) -> None:
    """Wait until processes have ended."""
    deadline = time.monotonic() + 20
    while found := left():
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_nothing_outlives_a_test_that_fails_and_tests_that_are_killed(
    trainer: Any, tmp_path: Path
) -> None:
    mark, note = f"{tmp_path}/mark", tmp_path / "note"
    command = inner_tests(tmp_path, trainer.shared, "test_fails", "test_hangs")
    with started(command, cwd=REPOSITORY, env=os.environ | {"MARK": mark}) as process:
        wait_for(note.exists, process, seconds=300)
        failed = (tmp_path / "failed").read_text().split()
        assert len(failed) >= 3  # a process, its watchdog process and its worker
        wait_until_none_are_left(lambda: [pid for pid in failed if Path("/proc", pid).exists()])
        assert len(marked(mark)) >= 4  # pytest, the forkserver, a process, its worker
        process.kill()
    wait_until_none_are_left(lambda: marked(mark))


@pytest.mark.slow
def test_nothing_outlives_a_session_that_ends(trainer: Any, tmp_path: Path) -> None:
    mark = f"{tmp_path}/mark"
    command = inner_tests(tmp_path, trainer.shared, "test_fails")
    with started(command, cwd=REPOSITORY, env=os.environ | {"MARK": mark}) as process:
        assert process.wait(300) == pytest.ExitCode.TESTS_FAILED
    wait_until_none_are_left(lambda: marked(mark))


@pytest.mark.parametrize("plugin", [("-p", "no:xdist"), ("-n", "1")], ids=["alone", "xdist"])
def test_nothing_outlives_tests_that_are_interrupted(
    tmp_path: Path, plugin: tuple[str, str]
) -> None:
    mark, note = f"{tmp_path}/mark", tmp_path / "note"
    (tmp_path / "test_inner.py").write_text(PROGRAM.format(note=note))
    # a job in the background of a shell ignores SIGINT, and so would what it starts
    command = ["env", "--default-signal=INT", sys.executable, "-m", "pytest", "-q", *plugin]
    command += ["-p", "tests.session", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'base'}"]
    command += [f"{tmp_path}/test_inner.py", f"-c={REPOSITORY / 'pyproject.toml'}"]
    with started(command, cwd=REPOSITORY, env=os.environ | {"MARK": mark}) as process:
        wait_for(note.exists, process, seconds=300)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == pytest.ExitCode.INTERRUPTED
    wait_until_none_are_left(lambda: marked(mark))
