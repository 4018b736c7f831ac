"""The process beside a training process that ends it when it stands still, and says how it ended.

    python -I -S trainer/process/watchdog_process.py PARENT DESCRIPTOR STATUS CHECKPOINTS

It needs nothing but the standard library: it costs 12 MB, and works where the training process
cannot run Python any more. `--gone STATUS` is for launch.sh: see write_killed_status().
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

POLL_SECONDS = 0.2  # between two looks
MAX_POLL_SECONDS = 1.0  # that one counts for at most: while the machine slept nothing counts
STACK_SECONDS = 1.0  # the stacks take to be written
LAUNCHER_WAIT_SECONDS = 3.0  # launch.sh waits for a watchdog process, which knows more
STALLED, KILLED = 1, 128 + signal.SIGKILL  # exit statuses

SAVING = ".saving-after-error"  # ends a folder's name in checkpoints/: a process writes one
SAVING_SECONDS = 1800.0  # others wait for that at most

LAYOUT = struct.Struct("<Qdi64s")


class HeartbeatState(NamedTuple):
    """What the training process shares: it writes, the watchdog process reads."""

    beats: int  # another number: it made progress
    allowed: float  # seconds until the next one; 0: any time
    exit: int  # status that it is about to end with, without a word; 0: not so
    where: bytes  # in the run: UTF-8


class TrainingProcess:
    """The training process, as its watchdog process sees it."""

    def __init__(self, pid: int, descriptor: int) -> None:
        """Take its process id, and the descriptor of the memory that it shares."""
        self.pid = pid
        self._shared = mmap.mmap(descriptor, LAYOUT.size, prot=mmap.PROT_READ)
        os.close(descriptor)

    @property
    def sign(self) -> HeartbeatState:
        """Return what it shared last."""
        return HeartbeatState(*LAYOUT.unpack_from(self._shared))

    @property
    def gone(self) -> bool:
        """Tell whether it has ended; one that nobody has waited for yet has, too."""
        return os.getppid() != self.pid

    @property
    def stopped(self) -> bool:
        """Tell whether somebody stopped it: Ctrl-Z, SLURM, a debugger. Not known without /proc."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError:
            return False
        return stat.rpartition(b") ")[2][:1] in b"Tt"


def watch(parent: TrainingProcess, checkpoints: str) -> str:
    """Wait for the parent's end; bring it about where it stalls.

    Args:
        parent: the training process.
        checkpoints: their folder; while another process saves there after an error, what waits
            for that one in a collective is left alone.

    Returns:
        what was said of a parent that stood still; nothing, where it ended by itself.
    """
    last, still, looked = parent.sign, 0.0, time.monotonic()
    while not parent.gone:
        time.sleep(POLL_SECONDS)
        sign, now = parent.sign, time.monotonic()
        look, looked = min(now - looked, MAX_POLL_SECONDS), now
        if sign != last or not sign.allowed or parent.stopped:
            last, still = sign, 0.0
            continue
        still += look
        saving = SAVING_SECONDS if _saves_after_error(checkpoints) else 0.0
        if still > sign.allowed + saving:
            return _end(parent, sign, still)
    return ""


def _saves_after_error(checkpoints: str) -> bool:
    return bool(checkpoints) and any(Path(checkpoints).glob(f"*{SAVING}"))


def _end(parent: TrainingProcess, sign: HeartbeatState, still: float) -> str:
    """Have the parent print the stacks of its threads, say why, and kill it."""
    rank, where = os.environ.get("RANK", "0"), sign.where.rstrip(b"\0").decode()
    told = (
        f"process {rank} (pid {parent.pid}) made no progress for {still:.3g} s in {where} (limit "
        f"{sign.allowed:.3g} s) and was killed; the stacks of its threads are above. Go on with "
        "--resume=auto; if it was only slow, set loop.stall_seconds higher (0: no limit)"
    )
    _signal(parent, signal.SIGUSR2)  # Watchdog registered faulthandler for it
    time.sleep(STACK_SECONDS)
    _signal(parent, signal.SIGKILL)
    while not parent.gone:  # what waits for a disk dies when that answers
        time.sleep(0.01)
    return told


def _signal(parent: TrainingProcess, number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(parent.pid, number)


def _say(sentence: str) -> None:
    try:
        os.write(sys.stderr.fileno(), f"{sentence}\n".encode())
    except OSError:  # nobody reads it any more: status.json has it too
        return


def write_final_status(path: Path, pid: int, ended: dict[str, Any]) -> None:
    """Write status.json, whole or not at all, where it still says that the process runs.

    Args:
        path: of status.json.
        pid: of the process that has ended.
        ended: status, exit and reason.
    """
    facts = read_status(path)
    if facts.get("status") != "running" or facts.get("pid") != pid:
        return
    if told := os.environ.get("WHISPER_LOOP_EXIT"):  # before: launch.sh waits for status.json
        _replace(Path(told), f"{ended['exit']}\n{path}\n")
    _replace(path, json.dumps(facts | ended | {"ended": time.time()}, indent=2) + "\n")


def read_status(path: Path) -> dict[str, Any]:
    """Return what a status.json says; nothing, where there is none that can be read."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _replace(path: Path, text: str) -> None:
    if not path.exists():  # somebody removed the run, or launch.sh has ended
        return
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _say(f"warning: {path} could not be written: {error}")
    finally:
        temporary.unlink(missing_ok=True)


def killed(exit_status: int = 0) -> dict[str, Any]:
    """Return how a process ended that did not say so, or only with what exit status."""
    reason = "killed, by the system (out of memory), a scheduler or a person, or crashed"
    if exit_status:
        reason = f"told to stop a second time: signal {exit_status - 128}"
    return {"status": "killed", "exit": exit_status or KILLED, "reason": reason}


def write_killed_status(path: Path) -> None:
    """Write that a start was killed together with its watchdog process, if it was."""
    until = time.monotonic() + LAUNCHER_WAIT_SECONDS
    while (facts := read_status(path)).get("status") == "running" and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    pid = int(facts.get("pid", 0))
    if not _alive(pid):
        write_final_status(path, pid, killed())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # there, and somebody else's
        return True
    return True


def main(arguments: list[str]) -> None:
    """Watch a process until its end; then see to its status.json."""
    if arguments[0] == "--gone":
        return write_killed_status(Path(arguments[1]))
    parent, status = TrainingProcess(int(arguments[0]), int(arguments[1])), arguments[2]
    stalled = watch(parent, arguments[3])
    if status:
        ended = {"status": "stalled", "exit": STALLED, "reason": stalled}
        write_final_status(Path(status), parent.pid, ended if stalled else killed(parent.sign.exit))
    if stalled:  # last: where nobody reads what is printed this waits
        _say(f"stalled: {stalled}")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
