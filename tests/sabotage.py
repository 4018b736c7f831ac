"""Fault injection for runs of the tests: kills, errors, damaged files; and notes of a run."""

import json
import mmap
import os
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint.snapshot import Snapshot

PHASES = ("start-up", "update", "evaluation", "export")
SAVING = len(PHASES)  # a place of its own: a thread saves while the main one does something else
OTHERS = ("rewind", "damage", "second start", "error in an update", "error in an evaluation")


@contextmanager
def marked(marks: mmap.mmap, place: int, value: int) -> Iterator[None]:
    """Mark where a process is, in memory that outlives it."""
    before, marks[place] = marks[place], value
    yield
    marks[place] = before


def wrap(owner: Any, name: str, marks: mmap.mmap, place: int, value: int) -> None:
    """Mark the time that a function takes."""
    function = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        with marked(marks, place, value):
            return function(*arguments, **options)

    setattr(owner, name, wrapped)


def choose_at_random(seed: int) -> None:
    """Have some updates be the best so far: the same ones in each start of a run."""
    import trainer.validation
    from trainer.best_model import Verdict

    def chosen(_best: Path, _new: Path, _error: float, state: Any) -> Verdict:
        better = random.Random(f"{seed} {state.step}").random() < 0.5
        return Verdict(better=better, reason="better" if better else "not better")

    trainer.validation.compare_with_best = chosen  # type: ignore[assignment]


def fail(where: str, number: int) -> None:
    """Have the last process raise in its passes, or in the batches of its evaluations."""
    import eval.evaluate
    from trainer.model import TrainingModule

    if os.environ.get("RANK", "0") != str(int(os.environ.get("WORLD_SIZE", "1")) - 1):
        return
    owner, name = {
        "error in an update": (TrainingModule, "forward"),
        "error in an evaluation": (eval.evaluate, "transcribe"),
    }[where]
    function, calls = getattr(owner, name), Counter[str]()

    def failing(*arguments: Any, **options: Any) -> Any:
        calls[name] += 1
        if calls[name] == number:
            raise RuntimeError(where)
        return function(*arguments, **options)

    setattr(owner, name, failing)


@dataclass(frozen=True, kw_only=True)
class Fate:
    """The faults of a start."""

    die_at: int | None = None  # event of its saves
    fails: tuple[str, int] | None = None  # where, and at which call
    seed: int = 0  # of the campaign: which updates are the best so far


def observe(folder: Path, fate: Fate) -> None:
    """Note what a process does and trains on, and inject its faults."""
    import trainer.loop
    from eval.evaluate import Evaluator
    from trainer.checkpoint.writer import CheckpointWriter
    from trainer.heartbeat import Heartbeat
    from trainer.validation import Validation

    rank = os.environ.get("RANK", "0")
    with (folder / f"marks.{rank}").open("wb+") as file:
        file.write(bytes(SAVING + 1))
        file.flush()
        marks = mmap.mmap(file.fileno(), 0)
    wrap(trainer.loop, "train_step", marks, 0, PHASES.index("update"))
    wrap(Evaluator, "evaluate", marks, 0, PHASES.index("evaluation"))
    wrap(Validation, "export_best", marks, 0, PHASES.index("export"))
    wrap(CheckpointWriter, "write", marks, SAVING, 1)
    begin = Heartbeat.begin_update

    def noted(self: Heartbeat, batches: Any, dropped: int) -> Any:
        row = {
            "at": list(batches[0].position),
            "ids": [each for batch in batches for each in batch.ids],
        }
        with (folder / f"ids.{rank}.jsonl").open("a") as ids:
            ids.write(json.dumps(row) + "\n")
        return begin(self, batches, dropped)

    Heartbeat.begin_update = noted  # type: ignore[method-assign]
    choose_at_random(fate.seed)
    if fate.fails is not None:
        fail(*fate.fails)
    if fate.die_at is not None:
        calls = ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "link"), (shutil, "rmtree"))
        for owner, name in (*calls, (Snapshot, "write")):
            step(owner, name, folder, fate.die_at)


EVENTS = Counter[str]()


def step(owner: Any, name: str, folder: Path, die_at: int) -> None:
    """Count a function's calls by the thread that saves, and die before or after one of them."""
    function = getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        if not threading.current_thread().name.startswith("checkpoint"):
            return function(*arguments, **options)
        for moment in ("before", "after"):
            EVENTS["all"] += 1
            if EVENTS["all"] == die_at:
                (folder / "died.txt").write_text(f"{moment} {name}")
                os.kill(os.getpid(), signal.SIGKILL)
            if moment == "before":
                done = function(*arguments, **options)
        return done

    setattr(owner, name, counted)


def damage(newest: Path, older: Path, rng: random.Random) -> str:
    """Damage a checkpoint in a random way; return how.

    Args:
        newest: the checkpoint.
        older: another one, whose files may be put there.
        rng: chooses.
    """
    file = newest / rng.choice([path.name for path in newest.iterdir()])
    how = rng.choice(["bit flip", "truncation", "deletion", "swap", "stranger"])
    if how == "bit flip":
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    elif how == "truncation":
        os.truncate(file, rng.randrange(file.stat().st_size))
    elif how == "deletion":
        file.unlink()
    elif how == "swap":
        shutil.copy(older / file.name, file)
    else:
        (newest / rng.choice(["scaler.pt", "pytorch_model.bin", "x"])).write_bytes(b"1")
    return how
