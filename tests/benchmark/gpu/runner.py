"""Runs steps as processes of their own: none can hurt the next by a hang, or by its memory."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu.plan import Step, groups, longest
from gpu.rows import ROWS, SMOKE, STEP, append

from data.atomic_files import read_jsonl

REPOSITORY = Path(__file__).resolve().parents[3]
LEAST = 5.0  # seconds a step is worth starting for
LINES = 12  # of what a step printed, where it failed
NO_TESTS = 5  # pytest's exit status where it found none


@dataclass(kw_only=True, slots=True)
class Runner:
    """Runs steps, and writes down how each ended."""

    out: Path  # JSON lines, of the steps themselves and of how they ended
    seconds: float  # of all steps together
    smoke: bool  # on a CPU
    _end: float = 0.0
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def run(self, steps: Sequence[Step], jobs: int) -> list[dict[str, Any]]:
        """Run steps; return all rows of this start.

        Args:
            steps: in their order.
            jobs: how many of those that may have others beside them run at a time.
        """
        self.out.parent.mkdir(parents=True, exist_ok=True)
        before = len(list(read_jsonl(self.out))) if self.out.is_file() else 0
        self._end = time.monotonic() + self.seconds
        left = list(steps)
        try:
            for together, beside in groups(steps, jobs):
                left = left[len(together) :]
                self._group(together, beside, after=longest(left, jobs))
        finally:
            for process in list(self._running):
                _kill(process)
        return list(read_jsonl(self.out))[before:]

    def _group(self, together: Sequence[Step], beside: int, *, after: int) -> None:
        """Run steps one after another, or several at a time.

        Args:
            together: the steps.
            beside: how many run at a time.
            after: seconds that later groups may take.
        """
        if beside > 1:
            with ThreadPoolExecutor(beside) as pool:
                list(pool.map(self._step, together))
            return
        for number, step in enumerate(together, 1):
            self._step(step, longest(together[number:], 1) + after)

    def _step(self, step: Step, after: float | None = None) -> None:
        """Run a step; where seconds are left over, up to twice its limit.

        Args:
            step: what to run.
            after: seconds that later steps may take; None: not known, and none are left over.
        """
        if not step.command:
            self._tell(step, "skipped", 0.0, why="it needs --model and --corpus")
            return
        remaining = self._end - time.monotonic()
        spare = 0.0 if after is None else remaining - after - step.seconds
        limit = min(remaining, step.seconds + min(step.seconds, max(0.0, spare)))
        if limit < LEAST:
            self._tell(step, "skipped", 0.0, why="the time was up")
            return
        with tempfile.TemporaryFile() as log:
            started = time.monotonic()
            status = self._wait(step, limit, log)
            took = time.monotonic() - started
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
        if status is None:
            self._tell(step, "timeout", took, why=f"ended after {limit:.0f} s", tail=lines[-3:])
        elif status == NO_TESTS:
            self._tell(step, "skipped", took, why=lines[-1] if lines else "")
        elif status:
            self._tell(step, "failed", took, why=reason(lines), tail=lines[-LINES:])
        else:
            self._tell(step, "ok", took)

    def _wait(self, step: Step, limit: float, log: Any) -> int | None:
        """Run a step's process to its end; None: it was killed at its limit."""
        told = {ROWS: str(self.out), STEP: step.name, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
        told |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if self.smoke:
            told |= {SMOKE: "1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=REPOSITORY,
            env=os.environ | told,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that those it starts can be ended with it
        )
        self._running.add(process)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill(process)  # what it started and left behind as well
            self._running.discard(process)

    def _tell(self, step: Step, status: str, seconds: float, **more: Any) -> None:
        """Write down how a step ended."""
        told = {"step": step.name, "status": status, "seconds": round(seconds, 1), **more}
        append(self.out, told)
        print(f"{step.name}: {status}, {seconds:.1f} s  {more.get('why', '')}", flush=True)


def reason(lines: Sequence[str]) -> str:
    """Return the line of a failed step that says why: pytest's summary, or the last one."""
    summary = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    errors = [line for line in lines if line.startswith("E  ")]
    return "; ".join(summary or errors[:1] or lines[-1:])[:1000]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
