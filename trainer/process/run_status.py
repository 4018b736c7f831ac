"""status.json: how a run's last start ended, and what launch.sh exits with."""

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
from trainer.process.watchdog_process import killed, read_status

STATUS = "status.json"


@contextmanager
def status(folder: Path) -> Iterator[Path | None]:
    """Keep status.json: running while the body runs, then how it ended, and with what exit status.

    The launchers turn a child's status into 1; this file has the real one. Where a start that is
    over still says that it runs, it was killed: this one has the folder to itself.

    Returns:
        its path, on the process that writes it.

    Raises:
        SystemExit: with STOPPED, where the body was asked to stop.
    """
    path = folder / STATUS if launched_rank() == "0" else None
    facts: dict[str, Any] = {"status": "running", "pid": os.getpid(), "started": time.time()}
    if path is not None and (previous := _previous(path)):
        facts["previous"] = previous
    _write_status(path, facts)
    try:
        yield path
    except Stopped as stopped:
        told = str(stopped) or "stopped before training began: start again with --resume=auto"
        facts |= {"status": "stopped", "exit": STOPPED, "reason": told}
        if path is not None:
            print(told, flush=True)
        raise SystemExit(STOPPED) from None
    except BaseException as error:
        known = isinstance(error, InputError) or (
            isinstance(error, Exception) and is_disk_error(error)
        )
        reason = redact(f"{type(error).__name__}: {error}")
        facts |= {"status": "failed", "exit": 2 if known else 1, "reason": reason}
        raise
    else:
        facts |= {"status": "finished", "exit": 0}
    finally:
        _write_last_status(path, facts | {"ended": time.time()})


def _previous(path: Path) -> dict[str, Any]:
    """Return how the start before ended; nothing, where there was none."""
    facts = read_status(path)
    facts.pop("previous", None)
    if facts.get("status") == "running":
        facts |= killed()
        print(
            f"the previous start (process {facts.get('pid')}) did not record how it ended: it was "
            "killed together with its watchdog process, or the machine went down"
        )
    return facts


def _write_status(path: Path | None, facts: dict[str, Any]) -> None:
    if path is None:
        return
    _tell_launcher(facts.get("exit", 1), str(path.absolute()))
    write_json(path, facts)


def _write_last_status(path: Path | None, facts: dict[str, Any]) -> None:
    """Write how a run ended; a disk that is full then does not change how."""
    try:
        _write_status(path, facts)
    except OSError as error:
        print(f"WARNING: {path} could not be written ({error}): {facts}", file=sys.stderr)


@contextmanager
def launcher_told_of_mistakes() -> Iterator[None]:
    """Have launch.sh exit with 2 for a mistake that keeps a run from being started."""
    try:
        yield
    except (InputError, SystemExit) as error:  # the parser of arguments exits by itself
        if getattr(error, "code", 2) == 2:
            _tell_launcher(2)
        raise


def _tell_launcher(exit_status: int, path: str = "") -> None:
    """Write what launch.sh exits with, since launchers turn a status into 1; and of which run."""
    if (told := os.environ.get("WHISPER_LOOP_EXIT")) and launched_rank() == "0":
        Path(told).write_text(f"{exit_status}\n{path}\n", encoding="utf-8")
