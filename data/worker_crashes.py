"""DataLoader workers that are restarted when a decoder crashes or hangs one of them."""

import ctypes
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from multiprocessing import RawArray
from multiprocessing.process import BaseProcess
from traceback import clear_frames
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling

from data.audio.decode import AudioError
from data.errors import InputError

# torch's SIGCHLD handler raises anywhere in the main thread. With this flag torch installs none,
# and raises only while fetching a batch, where it checks for dead workers every 5 s
signal_handling._SIGCHLD_handler_set = True

A = TypeVar("A")

DECODE_SECONDS = 300.0  # CPU time, which an endless loop uses up and a slow disk does not
STALL_SECONDS = 600.0  # wall time, after which even a network disk has failed
HANG_SIGNALS = (signal.SIGPROF, signal.SIGALRM)  # end a worker that exceeds either
CRASH_SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
IGNORED_SIGNALS = (
    signal.SIGINT,
    signal.SIGUSR1,
)  # schedulers send them to all processes of a job
MAX_DEATHS = 3  # tolerated in a row, without a clip as the cause
KILLS, HANGS = "kills the decoder", "hangs the decoder"  # reasons of drops
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class WorkerWatch:
    """Records what each worker is decoding, in shared memory that outlives the worker.

    A clip on which a decoder crashed or hung is not decoded again. Other deaths have causes outside
    of the clip: SIGKILL from the kernel when memory runs out, SIGBUS when shared memory does.
    """

    def __init__(
        self, audio_of: Callable[[int], str], workers: int, limit: float = DECODE_SECONDS
    ) -> None:
        """Allocate the shared memory.

        Args:
            audio_of: returns the audio at an index, for messages.
            workers: number of workers; 0: nothing is recorded.
            limit: CPU time that decoding one clip may take, in seconds.
        """
        self.bad_clips: dict[int, tuple[str, str]] = {}  # by index: reason and detail of the drop
        self._audio_of = audio_of
        self._limits = {signal.ITIMER_PROF: limit, signal.ITIMER_REAL: STALL_SECONDS}
        self._pids = RawArray("q", workers)
        self._current = RawArray("q", workers)  # index being decoded, plus 1; 0: none
        self._parent = os.getpid()
        self._processes: list[BaseProcess] = []

    @contextmanager
    def decoding(self, index: int) -> Iterator[None]:
        """Record in a worker that an index is being decoded; kill the worker after the time limits.

        Raises:
            AudioError: the clip crashed or hung a worker before.
        """
        if index in self.bad_clips:
            raise AudioError(*self.bad_clips[index])
        worker = get_worker_info()
        if worker is None:  # in the main process a crash ends everything
            yield
            return
        self._current[worker.id] = index + 1
        for timer, seconds in self._limits.items():
            signal.setitimer(timer, seconds)
        try:
            yield
        finally:
            for timer in self._limits:
                signal.setitimer(timer, 0)
            self._current[worker.id] = 0

    def init_worker(self, worker: int) -> None:
        """Set a worker's signal handlers, and register its process id.

        Only its parent may end it: by SIGTERM, by the DataLoader's shutdown, or by exiting.
        """
        for number in IGNORED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        for number in HANG_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if sys.platform == "linux":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_exit_on_parent_sigterm, daemon=True).start()
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._parent:  # the parent exited before prctl()
                os._exit(1)
        self._current[worker], self._pids[worker] = 0, os.getpid()

    def start_workers(
        self, make: "Callable[..., DataLoader[Any]]", requests: Iterator[A]
    ) -> Iterator[Any]:
        """Start a DataLoader's workers."""
        # other start methods, the default since Python 3.14, would copy the whole manifest
        fork = "fork" if self._pids and sys.platform == "linux" else None
        loader = make(
            batch_sampler=requests,
            worker_init_fn=self.init_worker,
            multiprocessing_context=fork,
            generator=torch.Generator(),  # else each start would advance the global generator
        )
        batches = iter(loader)
        self._processes = getattr(batches, "_workers", [])
        return batches

    def find_causes(self) -> tuple[bool, list[str]]:
        """Find the causes of the last workers' deaths, after all have exited; record bad clips.

        Returns:
            Whether a clip was the cause, and a description of each death.
        """
        current = dict(zip(self._pids, self._current, strict=True))
        has_bad_clip, causes = False, []
        for worker in self._processes:
            index, code = current.get(worker.pid or 0, 0) - 1, worker.exitcode
            if not code:
                continue
            cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            causes.append(
                f"{cause} while decoding {self._audio_of(index)}" if index >= 0 else cause
            )
            if index >= 0 and -code in (*HANG_SIGNALS, *CRASH_SIGNALS):
                reason = HANGS if -code in HANG_SIGNALS else KILLS
                self.bad_clips[index] = (reason, f"a worker died of it: {cause}")
                has_bad_clip = True
        return has_bad_clip, causes


def resilient_batches(
    requests: Iterable[A], make: "Callable[..., DataLoader[Any]]", watch: WorkerWatch
) -> Generator[Any, None, None]:
    """Yield a DataLoader's batches in order; restart its workers when one dies.

    Args:
        requests: lists of keys, one per batch.
        make: builds the DataLoader from the remaining arguments.
        watch: the one that the DataLoader's dataset uses while decoding.

    Raises:
        InputError: workers died repeatedly, and no clip is the cause.
    """
    remaining = iter(requests)
    pending: deque[A] = deque()  # sent to the workers, batches not yet received
    deaths = 0
    while True:
        try:
            for batch in watch.start_workers(make, _record_pending(remaining, pending)):
                pending.popleft()
                deaths = 0
                yield batch
        except Exception as error:
            clear_frames(
                error.__traceback__
            )  # whose frames keep the iterator, and so the workers, alive
            has_bad_clip, causes = watch.find_causes()
            if not causes:
                raise
            deaths = 0 if has_bad_clip else deaths + 1
            if deaths > MAX_DEATHS:
                raise InputError(
                    f"data.workers: {deaths} died in a row, the last of {causes[-1]}; if memory or "
                    "shared memory (/dev/shm) ran out, set data.workers or data.prefetch lower"
                ) from error
        else:
            return
        remaining, pending = chain(tuple(pending), remaining), deque()


def _record_pending(requests: Iterable[A], pending: deque[A]) -> Iterator[A]:
    for request in requests:
        pending.append(request)
        yield request


def _exit_on_parent_sigterm() -> None:
    """Exit on SIGTERM from the parent; ignore a scheduler's, which goes to all processes."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        continue
    os._exit(0)
