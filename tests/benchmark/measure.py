"""What the comparison and the ladder share: their knobs, and a process measured from outside.

Every contender runs in a fresh process, so that memory, start-up and caches are its own.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from data.errors import InputError
from data.log_mel import CHUNK_SECONDS
from data.utterance import Utterance
from trainer.metrics.flops import WhisperFlops

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.2  # between two looks at a tree's memory, at least
POLL_SHARE = 40  # of one core at most, as a divisor: a look at some GB takes tens of milliseconds
HELD = re.compile(r"^Pss_(?:Anon|Shmem): +(\d+) kB", re.MULTILINE)


Shapes = Literal["nano", "tiny", "base", "small", "medium", "large-v3", "large-v3-turbo"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Knobs:
    """What both sides are given."""

    model: str | None = None  # a folder, or a name on the Hub
    corpus: str | None = None  # a folder in any layout that data.corpus takes
    language: str = "en"  # Whisper's code
    synthetic: Shapes | None = None  # or random weights of these shapes, and noise
    audio: Literal["flac", "mp3"] = "flac"  # synthetic: 16 kHz; mp3: 48 kHz, as Common Voice has it
    train_clips: int | None = None  # drawn from the corpus; None: all, or 64 updates of synthetic
    test_clips: int | None = None  # the same of its test split; None: all, or 32 synthetic

    clips: int = 8  # an update
    updates: int = 30  # a run; as many as an epoch holds give every clip its turn
    warmup: int = 5  # the first updates, left out of the rates
    rounds: int = 2  # of all contenders, one after another; the medians are shown
    eval_clips: int = 16  # decoded together
    workers: int = 2  # that load data
    threads: int = os.cpu_count() or 1  # OMP_NUM_THREADS
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"  # auto: GPU: fp16, as the guide
    gradient_checkpointing: bool = False  # the guide has it, for small GPUs
    out: str | None = None  # a JSON file to write

    def __post_init__(self) -> None:
        """Refuse what cannot be compared.

        Raises:
            InputError: there is nothing to train, or no update is left to be timed.
        """
        named = self.model is not None and self.corpus is not None
        if named == (self.synthetic is not None):
            raise InputError("give --model and --corpus, or --synthetic in place of both")
        if not 1 <= self.warmup < self.updates:
            raise InputError(
                f"updates is {self.updates} and warmup {self.warmup}: nothing would be timed; "
                "raise --updates"
            )

    @property
    def numbers(self) -> str:
        """Return the precision that both sides are told."""
        if self.precision != "auto":
            return self.precision
        return "fp16" if torch.cuda.is_available() else "fp32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A model, a corpus that both sides read from the same files, and the knobs."""

    knobs: Knobs
    model: str
    corpus: Path  # train.jsonl, test.jsonl and the clips they name
    train: Sequence[Utterance]  # what is in them
    test: Sequence[Utterance]
    folder: Path  # to work in
    flops: WhisperFlops  # the model's

    @property
    def lengths(self) -> list[tuple[float, int]]:
        """Return seconds and target tokens of each training clip; the start token is no target."""
        return [(u.seconds, u.tokens - 1) for u in self.train]

    @property
    def ceiling(self) -> float:
        """Return how many times the FLOPs of true lengths the padded corpus takes."""
        padded = self.flops.train((CHUNK_SECONDS, tokens) for _, tokens in self.lengths)
        return padded / self.flops.train(self.lengths)


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """How a process went."""

    lines: Sequence[tuple[float, str]]  # what it printed, and how many seconds after its start
    tree_bytes: int  # peak over itself and its workers, without pages of files
    process_bytes: int  # peak of its largest process, with them: what `time -v` shows

    def said(self, text: str) -> float:
        """Return how many seconds after the start a line with this text was printed."""
        return next(seconds for seconds, line in self.lines if text in line)


def launch(command: Sequence[str], threads: int) -> Process:
    """Run a Python program of this repository, and watch it.

    Raises:
        InputError: it failed.
    """
    told = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=os.environ | told | {"TOKENIZERS_PARALLELISM": "false"},  # both fork workers
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[tuple[float, str]] = []

    def compute_silence_states() -> None:
        for line in process.stdout or ():
            lines.append((time.perf_counter() - started, line))

    listener = threading.Thread(target=compute_silence_states)
    listener.start()
    peak = 0
    try:
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            looked = time.perf_counter()
            peak = max(peak, sum(map(held_bytes, tree(process.pid))))
            time.sleep(max(POLL_SECONDS, POLL_SHARE * (time.perf_counter() - looked)))
    except KeyboardInterrupt:
        process.kill()
        raise
    listener.join()
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    if process.returncode != 0:
        tail = "".join(line for _, line in lines[-20:])
        raise InputError(f"{' '.join(command)} failed ({process.returncode}):\n{tail}")
    scale = 1 if sys.platform == "darwin" else 1024
    return Process(lines=lines, tree_bytes=peak, process_bytes=ended[2].ru_maxrss * scale)


def tree(pid: int) -> Iterable[int]:
    """Yield a process and all below it."""
    yield pid
    with suppress(OSError):  # it has ended, or this is not Linux
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from tree(int(child))


def held_bytes(pid: int) -> int:
    """Return a process's share of the memory that the system cannot take back.

    Shared pages are divided among those who share them: forked workers would count the model again.
    Pages of files are left out: a memory-mapped cache of features is not held.
    """
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(kilobytes) * 1024 for kilobytes in HELD.findall(told))


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def surroundings() -> dict[str, Any]:
    """Return what figures depend on: device, cores, versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    names = ("torch", "transformers", "datasets", "accelerate")
    return {"gpu": gpu, "cores": os.cpu_count(), **{name: version(name) for name in names}}


def screen() -> Console:
    """Return what a table is printed on; where there is no terminal, it is wide enough."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)
