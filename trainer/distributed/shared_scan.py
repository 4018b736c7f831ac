"""The scan of the corpus before training, shared by all processes.

Only the main process reads the corpus. It writes the names of the audio files to measure into a
file next to the scan's cache, and each process measures every Nth of them. The other processes
append their results to files next to the cache, from which the main process collects them.
"""

import time
from collections.abc import Callable
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from accelerate import Accelerator

from data.atomic_files import read_jsonl, write_jsonl
from data.config import DataConfig
from data.errors import InputError
from data.screening.durations import MeasureFiles, iter_measurements, measure_locally
from data.screening.scan_cache import MeasurementCache, Measurements, Stamps, read_rows
from eval.main_process import (
    default_store,
    has_key,
    new_key,
    put,
    run_on_main_process,
    wait_for,
    wait_until_visible,
)
from trainer.distributed.ended_processes import HEARTBEAT_SECONDS, HeartbeatMonitor, send_heartbeats

T = TypeVar("T")


class Task(NamedTuple):
    """Files that the other processes are to measure."""

    requests_path: Path  # lists the files
    cache: Path
    scan: str  # name of the scan in MeasurementCache


def scan_together(
    accelerator: Accelerator, config: DataConfig, work: Callable[[MeasureFiles], T]
) -> T:
    """Call a function on the main process, and measure files for it on all processes.

    All processes must call this. The result is returned on all of them.

    Args:
        accelerator: the processes.
        config: what to measure, and the number of workers.
        work: the function; its argument measures files.

    Raises:
        InputError: the function or a process that measures raised it, or a process exited.
        RuntimeError: a process raised another exception.
    """
    if accelerator.num_processes == 1:
        return work(measure_locally)
    scan = SharedScan(accelerator)

    def run() -> T:
        try:
            return work(scan.measure_files)
        finally:
            scan.end()

    if not accelerator.is_main_process:
        scan.serve(config)
    return run_on_main_process(accelerator, run)


class SharedScan:
    """Measures files on all processes: the main process calls measure_files(), the others serve().

    They communicate through the process group's key-value store, which has no timeout.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        """Create it on every process."""
        self._rank, self._world = accelerator.process_index, accelerator.num_processes
        self._store, self._key = default_store(), new_key("scan")
        self._others = HeartbeatMonitor(self._store, self._key, range(1, self._world))
        self._numbers = count()  # of tasks; the last task is None

    def measure_files(
        self, stamps: Stamps, config: DataConfig, cache: MeasurementCache | None, *, show: bool
    ) -> Measurements:
        """Measure files as measure_locally() does, but on all processes.

        Raises:
            InputError: another process raised it, or exited.
            RuntimeError: another process raised another exception.
        """
        if cache is None:
            return measure_locally(stamps, config, cache, show=show)
        write_jsonl(cache.requests_path, ({"audio": a, "stamp": s} for a, s in stamps.items()))
        try:
            number = self._put_task(Task(cache.requests_path, cache.path, cache.scan))
            measured = self._measure_share(stamps, config, cache, show=show)
            for rank in range(1, self._world):
                path: Path = wait_for(self._store, self._reply(number, rank), self._others.check)
                measured |= {audio: row for audio, _, row in read_rows(path) if audio in stamps}
        finally:
            cache.requests_path.unlink(missing_ok=True)
        rest = {audio: stamp for audio, stamp in stamps.items() if audio not in measured}
        return measured | measure_locally(rest, config, cache, show=show) if rest else measured

    def end(self) -> None:
        """End serve() on the other processes."""
        self._put_task(None)

    def serve(self, config: DataConfig) -> None:
        """Measure the main process's files, until it calls end().

        Raises:
            InputError: a file cannot be read, or workers die repeatedly.
            RuntimeError: the main process exited.
        """
        with send_heartbeats(self._store, self._key, self._rank):
            for number in self._numbers:
                task: Task | None = wait_for(self._store, self._task(number))
                if task is None:
                    return
                self._measure_task(task, number, config)

    def _measure_share(
        self, stamps: Stamps, config: DataConfig, cache: MeasurementCache, *, show: bool
    ) -> Measurements:
        """Measure the main process's share, and check that the other processes are alive."""
        share = dict(islice(stamps.items(), 0, None, self._world))
        label = f"checking {len(share):,} of {len(stamps):,} clips" if show else None
        measured: Measurements = {}
        with closing(iter_measurements(share, config, cache, label=label)) as results:
            for audio, measurement in results:
                measured[audio] = measurement
                self._others.check()
        return measured

    def _measure_task(self, task: Task, number: int, config: DataConfig) -> None:
        """Measure this process's share; stop if the main process no longer waits for it."""
        if self._is_over(number):
            return
        cache, last_check = MeasurementCache(task.cache, task.scan), time.monotonic()
        with closing(
            iter_measurements(self._read_share(task), config, cache, label=None)
        ) as results:
            for _ in results:
                if time.monotonic() - last_check < HEARTBEAT_SECONDS:
                    continue
                if self._is_over(number):
                    return
                last_check = time.monotonic()
        put(self._store, self._reply(number, self._rank), cache.results_path)

    def _read_share(self, task: Task) -> Stamps:
        """Return the files that this process measures.

        Raises:
            InputError: it cannot read the task's list.
        """
        try:
            rows = islice(
                read_jsonl(wait_until_visible(task.requests_path)), self._rank, None, self._world
            )
            return {row["audio"]: row["stamp"] for row in rows}
        except OSError as error:
            raise InputError(
                f"{task.requests_path}: process {self._rank} cannot read it ({error.strerror}): "
                "set run_dir to a folder that all machines share"
            ) from error

    def _put_task(self, task: Task | None) -> int:
        number = next(self._numbers)
        put(self._store, self._task(number), task)
        return number

    def _is_over(self, number: int) -> bool:
        """Return whether a later task exists: the main process does not wait for this one."""
        return has_key(self._store, self._task(number + 1))

    def _task(self, number: int) -> str:
        return f"{self._key}/task/{number}"

    def _reply(self, number: int, rank: int) -> str:
        return f"{self._key}/reply/{number}/{rank}"
