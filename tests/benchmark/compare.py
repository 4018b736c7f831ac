"""transformers' Seq2SeqTrainer and whisper-loop on the same clips, one after the other, in turn.

    python tests/benchmark/compare.py --model=MODEL --corpus=CORPUS --evaluate --out=compare.json

docs/benchmark.md says what is measured, and how.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # after this folder: its files

import ours
import theirs
from corpus import set_up
from figures import Evaluation, Figures, joined, scored
from measure import Knobs, Task, screen
from table import Round, report, table

from data.atomic_files import write_json
from data.config_parser import parse_dataclass
from data.errors import plain_errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Command(Knobs):
    """Compare transformers' Seq2SeqTrainer with whisper-loop on the same clips."""

    pad: Literal["bucket", "30s"] = "bucket"  # whisper-loop's data.pad
    ours: tuple[
        str, ...
    ] = ()  # further knobs of whisper-loop, such as data.max_seconds_per_forward=60
    evaluate: bool = False  # transcribe the test split before training and after it
    minutes: float | None = None  # of training, for scores after the same time


@dataclass(kw_only=True, slots=True)
class Side:
    """One contender in one round."""

    figures: Figures
    evaluate: Callable[[int, str], Evaluation]  # train so many updates, under a name
    heard: Mapping[str, str] = field(default_factory=dict)  # before training, by id


def main() -> None:
    """Measure, show, and write."""
    with plain_errors(), tempfile.TemporaryDirectory() as work:
        command = parse_dataclass(Command, sys.argv[1:])
        task = set_up(command, Path(work))
        rounds: list[Round] = []
        for number in range(command.rounds):
            rounds.append(take_turns(task, command, number))
            told = report(task, rounds)
            print(
                f"round {number + 1} of {command.rounds}: {told['clips_ratio']:.2f} times as fast"
            )
            if command.out is not None:  # after every round: they take long
                write_json(Path(command.out), told)
        screen().print(table(told))


def take_turns(task: Task, command: Command, number: int) -> Round:
    """Measure both sides once; each starts afresh, and leaves nothing behind."""
    folder = task.folder / f"round-{number}"
    cache = folder / "cache"
    cache.mkdir(parents=True)
    ask = (f"--data.pad={command.pad}", f"--seed={number}", *(f"--{knob}" for knob in command.ours))
    peer = Side(
        figures=joined(theirs.prepare(task, cache), theirs.train(task, cache, number)),
        evaluate=lambda updates, _: theirs.evaluate(task, cache, number, updates),
    )
    own = Side(
        figures=joined(
            ours.start(task, folder / "start", *ask), ours.train(task, folder / "train", *ask)
        ),
        evaluate=lambda updates, name: ours.evaluate(task, folder / name, updates, *ask),
    )
    if command.evaluate:
        for side in (peer, own):
            found = side.evaluate(command.updates, "evaluate")
            side.figures = joined(side.figures, scored(task, found))
            side.heard = found.before.texts
    if command.minutes is not None:
        for side in (peer, own):
            train_for(task, side, command.minutes)
    shutil.rmtree(folder)
    same = sum(peer.heard[i] == own.heard[i] for i in peer.heard) if peer.heard else None
    return Round(peer=peer.figures, ours=own.figures, same_texts=same)


def train_for(task: Task, side: Side, minutes: float) -> None:
    """Train for so long, at the speed that was measured, and score."""
    updates = max(1, round(minutes * 60 * (side.figures.updates_per_second or 0)))
    now = side.evaluate(updates, "minutes").after.score(task)
    found = Figures(
        same_time_updates=updates,
        same_time_wer=now.counts("wer").rate,
        same_time_cer=now.counts("cer").rate,
    )
    side.figures = joined(side.figures, found)


if __name__ == "__main__":
    main()
