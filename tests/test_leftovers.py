"""No process outlives the tests, however they end."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import started
from tests.forked import REPOSITORY
from tests.trainer.process.test_signals import wait_for

# the second test hangs: it is killed as a scheduler, a time-out or a person would
TESTS = """
import time
from pathlib import Path
from tests.trainer.process.test_signals import ENDLESS, trains, wait_for

def test_fails(trainer, tmp_path, losses):
    run = tmp_path / "run"
    both = trainer.start(run, *ENDLESS, "--data.workers=1", processes=2)
    wait_for(trains(run, losses), both[0])
    assert False

def test_hangs(trainer, tmp_path, losses):
    run = tmp_path / "run"
    both = trainer.start(run, *ENDLESS, "--data.workers=1", processes=2)
    wait_for(trains(run, losses), both[0])
    Path("{note}").touch()
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


@pytest.mark.parametrize("ends", ["fails", "hangs"])
def test_nothing_outlives_the_tests(tmp_path: Path, ends: str) -> None:
    mark, note = f"{tmp_path}/mark", tmp_path / "note"
    (tmp_path / "test_inner.py").write_text(TESTS.format(note=note))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:xdist"]
    command += ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'base'}"]
    command += [f"{tmp_path}/test_inner.py::test_{ends}", f"-c={REPOSITORY / 'pyproject.toml'}"]
    with started(command, cwd=REPOSITORY, env=os.environ | {"MARK": mark}) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and not note.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        if ends == "hangs":
            assert len(marked(mark)) >= 6  # pytest, the forkserver, two processes, two workers
            process.kill()
        assert process.wait(20) == (1 if ends == "fails" else -9)
    deadline = time.monotonic() + 20
    while left := marked(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


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
    deadline = time.monotonic() + 20
    while left := marked(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
