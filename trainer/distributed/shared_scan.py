"""The scan before training, shared by all processes.

The main process alone reads the corpus. It writes the names of the audio files that are to be
measured into a file beside the scan's cache, and each process measures every Nth of them. The
others append what they find to files beside the cache too, where the main process collects it.
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
from trainer.distributed.ended_processes import BEAT_SECONDS, HeartbeatMonitor, send_heartbeats

T = TypeVar("T")


class Task(NamedTuple):
    """What the main process asks the others to measure."""

    asked: Path  # a file that names it
    cache: Path
    scan: str  # the name of MeasurementCache


def scan_together(
    accelerator: Accelerator, config: DataConfig, work: Callable[[MeasureFiles], T]
) -> T:
    """Do work on the main process, whose scans all processes share; return its result on all.

    Args:
        accelerator: knows the processes; every process calls this.
        config: says how far to look into files, and with how many workers.
        work: takes what measures files.

    Raises:
        InputError: the work raised it, or a process raised it as it measured or has ended.
        RuntimeError: a process failed in another way.
    """
    if accelerator.num_processes == 1:
        return work(measure_locally)
    scan = SharedScan(accelerator)

    def ask() -> T:
        try:
            return work(scan.measure_files)
        finally:
            scan.end()

    if not accelerator.is_main_process:
        scan.serve(config)
    return run_on_main_process(accelerator, ask)


class SharedScan:
    """Measures files on all processes: the main process calls measure_files(), the others serve().

    All wait over the process group's key-value store, where nothing times out.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        """Take the processes; every process calls this."""
        self._rank, self._world = accelerator.process_index, accelerator.num_processes
        self._store, self._key = default_store(), new_key("scan")
        self._others = HeartbeatMonitor(self._store, self._key, range(1, self._world))
        self._numbers = count()  # of tasks; the last one is None

    def measure_files(
        self, stamps: Stamps, config: DataConfig, cache: MeasurementCache | None, *, show: bool
    ) -> Measurements:
        """Measure files, as durations.measure_here() does, with the help of the other processes.

        Raises:
            InputError: another process raised it, or has ended.
            RuntimeError: another process failed in another way.
        """
        if cache is None:
            return measure_locally(stamps, config, cache, show=show)
        write_jsonl(cache.requests_path, ({"audio": a, "stamp": s} for a, s in stamps.items()))
        try:
            number = self._put_task(Task(cache.requests_path, cache.path, cache.scan))
            found = self._measure_share(stamps, config, cache, show=show)
            for rank in range(1, self._world):
                path: Path = wait_for(self._store, self._reply(number, rank), self._others.check)
                found |= {audio: row for audio, _, row in read_rows(path) if audio in stamps}
        finally:
            cache.requests_path.unlink(missing_ok=True)
        left = {audio: stamp for audio, stamp in stamps.items() if audio not in found}
        return found | measure_locally(left, config, cache, show=show) if left else found

    def end(self) -> None:
        """Let the other processes go on: the main process has no more to ask."""
        self._put_task(None)

    def serve(self, config: DataConfig) -> None:
        """Measure what the main process asks for, until it calls end().

        Raises:
            InputError: a file cannot be read, or workers die again and again.
            RuntimeError: the main process has ended.
        """
        with send_heartbeats(self._store, self._key, self._rank):
            for number in self._numbers:
                task: Task | None = wait_for(self._store, self._task(number))
                if task is None:
                    return
                self._help(task, number, config)

    def _measure_share(
        self, stamps: Stamps, config: DataConfig, cache: MeasurementCache, *, show: bool
    ) -> Measurements:
        """Measure the main process's share, and look after the other processes meanwhile."""
        mine = dict(islice(stamps.items(), 0, None, self._world))
        label = f"checking {len(mine):,} of {len(stamps):,} clips" if show else None
        found: Measurements = {}
        with closing(iter_measurements(mine, config, cache, label=label)) as results:
            for audio, measured in results:
                found[audio] = measured
                self._others.check()
        return found

    def _help(self, task: Task, number: int, config: DataConfig) -> None:
        """Measure this process's share; stop where the main process has gone on without it."""
        if self._went_on(number):
            return
        cache, looked = MeasurementCache(task.cache, task.scan), time.monotonic()
        with closing(
            iter_measurements(self._read_share(task), config, cache, label=None)
        ) as results:
            for _ in results:
                if time.monotonic() - looked < BEAT_SECONDS:
                    continue
                if self._went_on(number):
                    return
                looked = time.monotonic()
        put(self._store, self._reply(number, self._rank), cache.results_path)

    def _read_share(self, task: Task) -> Stamps:
        """Return which files this process measures.

        Raises:
            InputError: it does not see the file that names them.
        """
        try:
            rows = islice(read_jsonl(wait_until_visible(task.asked)), self._rank, None, self._world)
            return {row["audio"]: row["stamp"] for row in rows}
        except OSError as error:
            raise InputError(
                f"{task.asked}: process {self._rank} cannot read it ({error.strerror}): set "
                "run_dir to a folder that all machines see"
            ) from error

    def _put_task(self, task: Task | None) -> int:
        number = next(self._numbers)
        put(self._store, self._task(number), task)
        return number

    def _went_on(self, number: int) -> bool:
        """Tell whether there is a task after this one: the main process does not wait for it."""
        return has_key(self._store, self._task(number + 1))

    def _task(self, number: int) -> str:
        return f"{self._key}/task/{number}"

    def _reply(self, number: int, rank: int) -> str:
        return f"{self._key}/reply/{number}/{rank}"
