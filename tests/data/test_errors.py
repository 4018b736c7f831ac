"""User errors are one line on stderr and exit status 2; other errors are tracebacks."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import BROKEN_PIPE_STATUS, InputError, plain_errors, report_disk_errors

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the only process."""
    monkeypatch.delenv("RANK", raising=False)


def told(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    """Raise inside plain_errors(), and return the line on stderr."""
    with pytest.raises(SystemExit) as left, plain_errors():
        raise error
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err.strip()


def test_a_mistake_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(InputError("data.corpus is empty"), capsys) == "error: data.corpus is empty"


def test_an_error_on_another_rank_has_its_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    assert told(InputError("no"), capsys) == "error on process 3: no"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_that_names_the_file(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    line = told(OSError(number, os.strerror(number), "/runs/a/state.json"), capsys)
    assert "no space left" in line
    assert "/runs/a/state.json" in line


def test_a_full_disk_without_a_name_tells_the_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) in told(OSError(errno.ENOSPC, "full"), capsys)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, ""), RuntimeError("Disk quota exceeded")])
def test_a_full_disk_whose_error_knows_no_name_tells_what_was_written(error: Exception) -> None:
    with (
        pytest.raises(InputError, match=r"no space left \(runs/a\)"),
        report_disk_errors(Path("runs/a")),
    ):
        raise error
    with pytest.raises(KeyError), report_disk_errors(Path("runs/a")):
        raise KeyError("a mistake of ours")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_really_full_device_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, plain_errors():
        Path("/dev/full").write_text("x")
    assert left.value.code == 2
    assert "no space left" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [1, 100_000])  # fewer than a buffer holds, and more
def test_a_closed_stdout_ends_the_program_silently(lines: int) -> None:
    # the file alone: its package imports torch, which takes a second
    code = "import runpy\nplain_errors = runpy.run_path('data/errors.py')['plain_errors']\n"
    code += f"with plain_errors(): print('a line\\n' * {lines})"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == BROKEN_PIPE_STATUS


def test_a_broken_pipe_that_is_not_the_output_keeps_its_traceback() -> None:
    with pytest.raises(BrokenPipeError), plain_errors():
        raise BrokenPipeError(errno.EPIPE, "a worker's")


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(PermissionError), plain_errors():
        raise PermissionError(errno.EACCES, "denied")
    with pytest.raises(KeyError), plain_errors():
        raise KeyError("a bug")
    with pytest.raises(KeyboardInterrupt), plain_errors():
        raise KeyboardInterrupt


def test_no_error_is_no_exit() -> None:
    with plain_errors():
        pass
