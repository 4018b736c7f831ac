"""Worker processes that may die: a decoder that kills its process does not end the run."""

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

# torch raises in the handler of SIGCHLD, amid whatever the main thread does. Told that it has set
# one already, it raises at a fetch alone, where it looks for dead workers every 5 s
signal_handling._SIGCHLD_handler_set = True

A = TypeVar("A")

DECODE_SECONDS = 300.0  # of computing, which an endless loop uses up and a slow disk does not
STALL_SECONDS = 600.0  # in all, after which even a network disk is not waited for
HANGS_ON = (signal.SIGPROF, signal.SIGALRM)  # what ends a worker that ran out of either
CRASHES_ON = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
IGNORED = (signal.SIGINT, signal.SIGUSR1)  # a scheduler's signals reach all processes of a job
DEATHS = 3  # in a row and without a clip to blame: one more is too many
KILLS, HANGS = "kills the decoder", "hangs the decoder"  # reasons of drops
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class WorkerWatch:
    """What each worker decodes, noted in memory that outlives it.

    A clip on which a decoder crashed or never ended is blamed, and not decoded again. Other deaths
    come from outside: SIGKILL from the kernel when memory runs out, SIGBUS when shared memory does.
    """

    def __init__(
        self, name_of: Callable[[int], str], workers: int, limit: float = DECODE_SECONDS
    ) -> None:
        """Make room for notes.

        Args:
            name_of: says what audio has an index, to name what a worker died of.
            workers: how many will do it; 0: nothing is watched.
            limit: seconds of computing that one decode may take.
        """
        self.blamed: dict[int, tuple[str, str]] = {}  # index of audio: reason and detail
        self._name_of = name_of
        self._limits = {signal.ITIMER_PROF: limit, signal.ITIMER_REAL: STALL_SECONDS}
        self._pids = RawArray("q", workers)
        self._notes = RawArray("q", workers)  # index of what is being decoded, plus 1; 0: nothing
        self._parent = os.getpid()
        self._crew: list[BaseProcess] = []

    @contextmanager
    def decoding(self, index: int) -> Iterator[None]:
        """Note in a worker what is being decoded, and end the worker where that takes too long.

        Raises:
            AudioError: it is blamed.
        """
        if index in self.blamed:
            raise AudioError(*self.blamed[index])
        worker = get_worker_info()
        if worker is None:  # in the main process: nobody would be left to read the note
            yield
            return
        self._notes[worker.id] = index + 1
        for timer, seconds in self._limits.items():
            signal.setitimer(timer, seconds)
        try:
            yield
        finally:
            for timer in self._limits:
                signal.setitimer(timer, 0)
            self._notes[worker.id] = 0

    def begin(self, worker: int) -> None:
        """Settle in as a worker: which signals it heeds, and where its notes are.

        Only its parent may end it: with SIGTERM, by the DataLoader's own shutdown, or by dying.
        """
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        for number in HANGS_ON:
            signal.signal(number, signal.SIG_DFL)
        if sys.platform == "linux":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_heed_parent, daemon=True).start()
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._parent:  # it died before that was asked for
                os._exit(1)
        self._notes[worker], self._pids[worker] = 0, os.getpid()

    def hire(self, make: "Callable[..., DataLoader[Any]]", asked: Iterator[A]) -> Iterator[Any]:
        """Start a DataLoader's workers."""
        # other ways to start, the default from Python 3.14 on, would copy the whole manifest
        fork = "fork" if self._pids and sys.platform == "linux" else None
        loader = make(
            batch_sampler=asked,
            worker_init_fn=self.begin,
            multiprocessing_context=fork,
            generator=torch.Generator(),  # else every start would draw from the global one
        )
        batches = iter(loader)
        self._crew = getattr(batches, "_workers", [])
        return batches

    def examine(self) -> tuple[bool, list[str]]:
        """Blame what the last workers died on, once all have ended.

        Returns:
            Whether a clip was to blame, and how each that died did so.
        """
        noted = dict(zip(self._pids, self._notes, strict=True))
        blamed, told = False, []
        for worker in self._crew:
            index, code = noted.get(worker.pid or 0, 0) - 1, worker.exitcode
            if not code:
                continue
            cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            told.append(f"{cause} while decoding {self._name_of(index)}" if index >= 0 else cause)
            if index >= 0 and -code in (*HANGS_ON, *CRASHES_ON):
                reason = HANGS if -code in HANGS_ON else KILLS
                self.blamed[index] = (reason, f"a worker died of it: {cause}")
                blamed = True
        return blamed, told


def survive(
    asked: Iterable[A], make: "Callable[..., DataLoader[Any]]", watch: WorkerWatch
) -> Generator[Any, None, None]:
    """Yield what a DataLoader makes of each thing asked for, in order; replace workers that die.

    Args:
        asked: lists of keys, each one batch.
        make: builds the DataLoader, from the rest of its arguments.
        watch: the one that the DataLoader's dataset decodes under.

    Raises:
        InputError: workers die again and again, and no clip is to blame.
    """
    rest = iter(asked)
    sent: deque[A] = deque()  # to the workers, and not yet received
    deaths = 0
    while True:
        try:
            for batch in watch.hire(make, _remembered(rest, sent)):
                sent.popleft()
                deaths = 0
                yield batch
        except Exception as error:
            clear_frames(error.__traceback__)  # which hold the iterator: without it, workers end
            blamed, told = watch.examine()
            if not told:
                raise
            deaths = 0 if blamed else deaths + 1
            if deaths > DEATHS:
                raise InputError(
                    f"data.workers: {deaths} died in a row, the last of {told[-1]}; where memory "
                    "ran out, or shared memory (/dev/shm), set data.workers or data.prefetch lower"
                ) from error
        else:
            return
        rest, sent = chain(tuple(sent), rest), deque()


def _remembered(asked: Iterable[A], sent: deque[A]) -> Iterator[A]:
    for each in asked:
        sent.append(each)
        yield each


def _heed_parent() -> None:
    """Leave when the parent says SIGTERM; a scheduler that says it to everyone is not heeded."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        continue
    os._exit(0)
