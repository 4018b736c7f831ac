"""status.json: whether a run is running or how it ended, and the exit status of launch.sh."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.atomic_files import write_json
from data.errors import InputError, is_disk_error, launched_rank, redact
from trainer.process.signals import STOPPED, Stopped
from trainer.process.watchdog_process import killed_status, read_status

STATUS = "status.json"


@contextmanager
def record_status(folder: Path) -> Iterator[Path | None]:
    """Write status.json: "running" while the body runs, then how it ended and its exit status.

    Launchers turn the exit status of a child into 1; this file holds the real one. If the file of
    an earlier start says "running", that start was killed, because this one has the run's lock.

    Returns:
        The path of status.json on the process that writes it, otherwise None.

    Raises:
        SystemExit: with status STOPPED, if the body was asked to stop.
    """
    path = folder / STATUS if launched_rank() == "0" else None
    facts: dict[str, Any] = {"status": "running", "pid": os.getpid(), "started": time.time()}
    if path is not None and (previous := _previous_status(path)):
        facts["previous"] = previous
    _write_status(path, facts)
    try:
        yield path
    except Stopped as stopped:
        message = str(stopped) or "stopped before training began: start again with --resume=auto"
        facts |= {"status": "stopped", "exit": STOPPED, "reason": message}
        if path is not None:
            print(message, flush=True)
        raise SystemExit(STOPPED) from None
    except BaseException as error:
        expected = isinstance(error, InputError) or (
            isinstance(error, Exception) and is_disk_error(error)
        )
        reason = redact(f"{type(error).__name__}: {error}")
        facts |= {"status": "failed", "exit": 2 if expected else 1, "reason": reason}
        raise
    else:
        facts |= {"status": "finished", "exit": 0}
    finally:
        _write_last_status(path, facts | {"ended": time.time()})


def _previous_status(path: Path) -> dict[str, Any]:
    """Return how the previous start ended, or an empty dict if there was none."""
    facts = read_status(path)
    facts.pop("previous", None)
    if facts.get("status") == "running":
        facts |= killed_status()
        print(
            f"the previous start (process {facts.get('pid')}) did not record how it ended: it was "
            "killed together with its watchdog process, or the machine went down"
        )
    return facts


def _write_status(path: Path | None, facts: dict[str, Any]) -> None:
    if path is None:
        return
    _write_exit_status(facts.get("exit", 1), str(path.absolute()))
    write_json(path, facts)


def _write_last_status(path: Path | None, facts: dict[str, Any]) -> None:
    """Write how the run ended; if the disk is full, only print a warning."""
    try:
        _write_status(path, facts)
    except OSError as error:
        print(f"WARNING: {path} could not be written ({error}): {facts}", file=sys.stderr)


@contextmanager
def report_input_errors() -> Iterator[None]:
    """Let launch.sh exit with status 2 if an input error prevents the start of the run."""
    try:
        yield
    except (InputError, SystemExit) as error:  # the argument parser raises SystemExit
        if getattr(error, "code", 2) == 2:
            _write_exit_status(2)
        raise


def _write_exit_status(exit_status: int, path: str = "") -> None:
    """Write the exit status and the path of status.json to the file that launch.sh reads."""
    if (file := os.environ.get("WHISPER_LOOP_EXIT")) and launched_rank() == "0":
        Path(file).write_text(f"{exit_status}\n{path}\n", encoding="utf-8")
