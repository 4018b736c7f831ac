"""The watchdog's process: kills a training process that stalls, and writes how it ended.

    python -I -S trainer/process/watchdog_process.py PARENT DESCRIPTOR STATUS CHECKPOINTS

It uses the standard library only: it takes 12 MB, and works even if the training process cannot run
Python any more. `--gone STATUS` is for launch.sh: see write_killed_status().
"""

import json
import mmap
import os
import signal
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

POLL_SECONDS = 0.2  # between two checks
MAX_POLL_SECONDS = 1.0  # counted for one check, so that the sleep of a machine is not a stall
STACK_SECONDS = 1.0  # to print the stacks
LAUNCHER_WAIT_SECONDS = 3.0  # of launch.sh for a watchdog process, which knows more
STALLED, KILLED = 1, 128 + signal.SIGKILL  # exit statuses

SAVING = ".saving-after-error"  # suffix of a folder in checkpoints/ while a process saves
SAVING_SECONDS = 1800.0  # longest wait of other processes for that

LAYOUT = struct.Struct("<Qdi64s")


class HeartbeatState(NamedTuple):
    """Shared memory that the training process writes and the watchdog process reads."""

    feeds: int  # number of calls of Watchdog.feed() and pause()
    allowed: float  # seconds until the next call; 0: no limit
    exit: int  # exit status that the process is about to end with; 0: none
    where: bytes  # phase of the run, UTF-8


class TrainingProcess:
    """The training process, observed from its watchdog process."""

    def __init__(self, pid: int, descriptor: int) -> None:
        """Take its process id, and the file descriptor of the shared memory."""
        self.pid = pid
        self._shared = mmap.mmap(descriptor, LAYOUT.size, prot=mmap.PROT_READ)
        os.close(descriptor)

    @property
    def state(self) -> HeartbeatState:
        """Return the current content of the shared memory."""
        return HeartbeatState(*LAYOUT.unpack_from(self._shared))

    @property
    def has_exited(self) -> bool:
        """Return whether it exited, even if its parent has not waited for it yet."""
        return os.getppid() != self.pid

    @property
    def is_suspended(self) -> bool:
        """Return whether it is suspended (Ctrl-Z, SLURM, a debugger); False without /proc."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError:
            return False
        return stat.rpartition(b") ")[2][:1] in b"Tt"


def watch(parent: TrainingProcess, checkpoints: str) -> str:
    """Wait until the training process exits, and kill it if it stalls.

    Args:
        parent: the training process.
        checkpoints: folder of the checkpoints. While another process saves there after an error,
            this one may wait for it in a collective: its limit is then longer.

    Returns:
        The reason for killing it, or an empty string if it exited by itself.
    """
    last, stalled, last_check = parent.state, 0.0, time.monotonic()
    while not parent.has_exited:
        time.sleep(POLL_SECONDS)
        state, now = parent.state, time.monotonic()
        elapsed, last_check = min(now - last_check, MAX_POLL_SECONDS), now
        if state != last or not state.allowed or parent.is_suspended:
            last, stalled = state, 0.0
            continue
        stalled += elapsed
        saving = SAVING_SECONDS if _is_saving_after_error(checkpoints) else 0.0
        if stalled > state.allowed + saving:
            return _kill(parent, state, stalled)
    return ""


def _is_saving_after_error(checkpoints: str) -> bool:
    return bool(checkpoints) and any(Path(checkpoints).glob(f"*{SAVING}"))


def _kill(parent: TrainingProcess, state: HeartbeatState, stalled: float) -> str:
    """Let the training process print the stacks of its threads, kill it, and return the reason."""
    rank, where = os.environ.get("RANK", "0"), state.where.rstrip(b"\0").decode()
    reason = (
        f"process {rank} (pid {parent.pid}) made no progress for {stalled:.3g} s in {where} (limit "
        f"{state.allowed:.3g} s) and was killed; the stacks of its threads are above. Resume with "
        "--resume=auto; if it was only slow, set loop.stall_seconds higher (0: no limit)"
    )
    _signal(parent, signal.SIGUSR2)  # Watchdog registered faulthandler for it
    time.sleep(STACK_SECONDS)
    _signal(parent, signal.SIGKILL)
    while not parent.has_exited:  # a process that waits for a disk dies only when the disk responds
        time.sleep(0.01)
    return reason


def _signal(parent: TrainingProcess, number: int) -> None:
    with suppress(ProcessLookupError):  # it exited meanwhile
        os.kill(parent.pid, number)


def _print(sentence: str) -> None:
    try:
        os.write(sys.stderr.fileno(), f"{sentence}\n".encode())
    except OSError:  # stderr is closed; status.json has the reason too
        return


def write_final_status(path: Path, pid: int, ended: dict[str, Any]) -> None:
    """Replace status.json atomically, if it still says that the process is running.

    Args:
        path: of status.json.
        pid: of the process that exited.
        ended: status, exit and reason.
    """
    facts = read_status(path)
    if facts.get("status") != "running" or facts.get("pid") != pid:
        return
    if file := os.environ.get(
        "WHISPER_LOOP_EXIT"
    ):  # first, because launch.sh waits for status.json
        _replace(Path(file), f"{ended['exit']}\n{path}\n")
    _replace(path, json.dumps(facts | ended | {"ended": time.time()}, indent=2) + "\n")


def read_status(path: Path) -> dict[str, Any]:
    """Return the content of a status.json, or an empty dict if it cannot be read."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _replace(path: Path, text: str) -> None:
    if not path.exists():  # the run was deleted, or launch.sh exited
        return
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _print(f"warning: {path} could not be written: {error}")
    finally:
        temporary.unlink(missing_ok=True)


def killed_status(exit_status: int = 0) -> dict[str, Any]:
    """Return the status of a process that exited without writing one; exit_status may be known."""
    reason = "killed, by the system (out of memory), a scheduler or a person, or crashed"
    if exit_status:
        reason = f"asked to stop a second time: signal {exit_status - 128}"
    return {"status": "killed", "exit": exit_status or KILLED, "reason": reason}


def write_killed_status(path: Path) -> None:
    """Write that a training process was killed together with its watchdog process, if so."""
    end = time.monotonic() + LAUNCHER_WAIT_SECONDS
    while (facts := read_status(path)).get("status") == "running" and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    pid = int(facts.get("pid", 0))
    if not _is_alive(pid):
        write_final_status(path, pid, killed_status())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def main(arguments: list[str]) -> None:
    """Watch a training process until it exits, then write its status.json."""
    if arguments[0] == "--gone":
        return write_killed_status(Path(arguments[1]))
    parent, status = TrainingProcess(int(arguments[0]), int(arguments[1])), arguments[2]
    reason = watch(parent, arguments[3])
    if status:
        stalled = {"status": "stalled", "exit": STALLED, "reason": reason}
        write_final_status(
            Path(status), parent.pid, stalled if reason else killed_status(parent.state.exit)
        )
    if reason:  # last, because this blocks if nobody reads stderr
        _print(f"stalled: {reason}")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
