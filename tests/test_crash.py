"""Runs are killed at any instant, and end with exactly the model that they would have had.

The runs have dropout, epochs that end on the way, evaluations that find a better model or do not,
and a width and batch at which bits differ as soon as something is not the same. Between kills they
are started twice at once, sent back to older checkpoints, lose their newest one, and fail in an
update or in an evaluation. `pytest -m slow tests/test_crash.py -s` makes the large campaign and
prints its tables.
"""

import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from data.errors import InputError
from data.files import read_jsonl
from trainer.recorder import METRICS
from trainer.shelf import CheckpointConfig, Shelf, read_progress, step_of

# 24 clips, 16 an update: an epoch is two updates
SETTINGS = (
    "--data.update_clips=16",
    "--model.dropout=0.1",
    "--optim.schedule=linear",
    "--loop.max_steps=8",
    "--loop.eval_every=3",
    "--checkpoint.save_every=2",
    "--data.dev_split=dev",
    "--data.workers=1",
    "--eval.max_length=6",
    "--resume=auto",
)
PHASES = ("start-up", "update", "evaluation", "export")
SAVING = len(PHASES)  # a place of its own: a thread saves while the main one does something else
OTHERS = ("rewind", "damage", "second start", "error in an update", "error in an evaluation")
Losses = Callable[[Path], dict[int, str]]


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
    import trainer.scoring
    from trainer.choice import Verdict

    def chosen(_best: Path, _new: Path, _error: float, state: Any) -> Verdict:
        better = random.Random(f"{seed} {state.step}").random() < 0.5
        return Verdict(better=better, told="better" if better else "not better")

    trainer.scoring.choose = chosen  # type: ignore[assignment]


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
    """What is going to happen to a start."""

    die_at: int | None = None  # event of its saves
    fails: tuple[str, int] | None = None  # where, and at which call
    seed: int = 0  # of the campaign: which updates are the best so far


def observe(folder: Path, fate: Fate) -> None:
    """Note what a process is doing and trains on; bring about what is going to happen to it."""
    import trainer.loop
    from eval.evaluate import Evaluator
    from trainer.checkpoint import Checkpoints
    from trainer.pulse import Pulse
    from trainer.scoring import Scoring
    from trainer.snapshot import Snapshot

    rank = os.environ.get("RANK", "0")
    with (folder / f"marks.{rank}").open("wb+") as file:
        file.write(bytes(SAVING + 1))
        file.flush()
        marks = mmap.mmap(file.fileno(), 0)
    wrap(trainer.loop, "train_step", marks, 0, PHASES.index("update"))
    wrap(Evaluator, "evaluate", marks, 0, PHASES.index("evaluation"))
    wrap(Scoring, "keep_best", marks, 0, PHASES.index("export"))
    wrap(Checkpoints, "_write", marks, SAVING, 1)
    begin = Pulse.begin

    def noted(self: Pulse, batches: Any, dropped: int) -> Any:
        row = {"at": list(batches[0].at), "ids": [each for batch in batches for each in batch.ids]}
        with (folder / f"ids.{rank}.jsonl").open("a") as ids:
            ids.write(json.dumps(row) + "\n")
        return begin(self, batches, dropped)

    Pulse.begin = noted  # type: ignore[method-assign]
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


class Campaign:
    """A run that is started until it ends, and killed on the way."""

    def __init__(self, trainer: Any, folder: Path, processes: int, seed: int) -> None:
        self.trainer = trainer
        self.folder = folder
        self.processes = processes
        self.rng = random.Random(seed)
        self.seed = seed
        self.landed: Counter[str] = Counter()
        self.others: Counter[str] = Counter()  # what befell it besides
        self.run, self.whole = folder / "run", folder / "whole"
        self.notes = {run: folder / f"notes-{run.name}" for run in (self.run, self.whole)}
        for notes in self.notes.values():
            notes.mkdir(parents=True)
        self.saved = False

    def start(self, run: Path, *extra: str, **fate: Any) -> list[Any]:
        """Start the run, or go on with it."""
        sabotage = partial(observe, self.notes[run], Fate(seed=self.seed, **fate))
        started: list[Any] = self.trainer.start(
            run, *SETTINGS, *extra, processes=self.processes, sabotage=sabotage
        )
        return started

    def finish(self, run: Path) -> None:
        """Let the run come to its end."""
        processes = self.start(run)
        for process in processes:
            process.join(300)
        logs = [
            (run.parent / f"{run.name}.{rank}.log").read_text() for rank in range(len(processes))
        ]
        assert [process.exitcode for process in processes] == [0] * self.processes, logs

    def kill(self, delay: float, *extra: str) -> None:
        """Start the run and kill it after a while, wherever it is."""
        self.kill_later(self.start(self.run, *extra), delay)

    def kill_later(self, processes: list[Any], delay: float) -> None:
        """Kill the run's processes after a while."""
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline and processes[0].is_alive():
            time.sleep(0.005)
        alive = processes[0].is_alive()
        for process in self.rng.sample(processes, len(processes)):
            process.kill()
        for process in processes:
            process.join(60)
        if alive:
            self.count(self.place())

    def die(self, event: int) -> None:
        """Start the run and let it kill itself at a step of the checkpoint's protocol."""
        told = self.notes[self.run] / "died.txt"
        told.unlink(missing_ok=True)
        processes = self.start(self.run, die_at=event)
        processes[0].join(120)
        for process in processes:
            process.kill()
            process.join(60)
        if told.exists():
            self.count("inside a save")

    def rewind(self, delay: float) -> None:
        """Send the run back to any of its checkpoints, and kill it after a while."""
        found = self.shelf.all()
        if found:
            self.others["rewind"] += 1
            self.kill(delay, f"--resume={self.rng.choice(found)}")

    def damage(self, delay: float) -> None:
        """Damage the newest checkpoint, if another one is left, and kill the run after a while."""
        found = self.shelf.all()
        if len(found) > 1:
            self.others["damage"] += 1
            damage(found[-1], found[-2], self.rng)
            self.kill(delay)

    def start_twice(self, delay: float) -> None:
        """Start the run while it is being trained: who comes second is sent away."""
        processes = self.start(self.run)
        time.sleep(self.rng.uniform(0.0, delay))
        rivals = self.start(self.run)
        rivals[0].join(60)
        if processes[0].is_alive():
            self.others["second start"] += 1
            assert rivals[0].exitcode == 2
        for rival in rivals:
            rival.kill()
            rival.join(60)
        self.kill_later(processes, delay / 2)

    def err(self, where: str, number: int, losses: Losses) -> None:
        """Have the run end with an error: the last finished update is saved."""
        processes = self.start(self.run, fails=(where, number))
        for process in processes:
            process.join(120)
        if all(process.exitcode == 1 for process in processes):
            self.others[where] += 1
            newest = self.shelf.newest(print)
            made = max(losses(self.run), default=0)
            assert (step_of(newest) if newest else 0) == made

    @property
    def shelf(self) -> Shelf:
        """Return the run's checkpoints."""
        return Shelf(self.run / "checkpoints", CheckpointConfig())

    def count(self, place: str) -> None:
        """Count a kill; a whole checkpoint that was there once is never lost, nor what it names."""
        self.landed[place] += 1
        found = self.shelf.newest(lambda _: None)
        assert found is not None or not self.saved, f"seed {self.seed}: no checkpoint is left"
        self.saved = found is not None
        steps = {step_of(path) for path in self.shelf.all()}
        for path in self.shelf.all():
            with suppress(OSError, ValueError):  # a damaged one names nothing
                assert {read_progress(path)["state"]["best_step"]} <= steps | {0}

    def place(self) -> str:
        """Return where the main process was when it was killed."""
        marks = self.notes[self.run] / "marks.0"
        values = marks.read_bytes() if marks.exists() else b""
        if not values:
            return PHASES[0]
        return "inside a save" if values[SAVING] else PHASES[values[0]]

    def compare(self, losses: Losses) -> None:
        """Check that nothing tells the killed run from the uninterrupted one."""
        assert losses(self.run) == losses(self.whole)
        for rank in range(self.processes):
            assert self.ids(self.run, rank) == self.ids(self.whole, rank)
        assert digests(self.run) == digests(self.whole)
        evaluations = [sorted(p.name for p in run.glob("eval/step-*")) for run in self.notes]
        assert evaluations[0] == evaluations[1]
        rates = [row["train/lr"] for row in read_jsonl(self.run / METRICS) if "train/lr" in row]
        assert min(rates) > 0  # else an update moves nothing

    def ids(self, run: Path, rank: int) -> dict[str, set[str]]:
        """Return what was trained on at each position; every try must have been the same."""
        found: dict[str, set[str]] = {}
        for line in (self.notes[run] / f"ids.{rank}.jsonl").read_text().splitlines():
            row = json.loads(line)
            found.setdefault(str(row["at"]), set()).add(json.dumps(row["ids"]))
        assert all(len(tries) == 1 for tries in found.values())
        return found

    def table(self, title: str) -> Table:
        """Return where the kills landed."""
        table = Table(title=title, title_justify="left")
        table.add_column("kills")
        counted = [(place, self.landed[place]) for place in (*PHASES, "inside a save")]
        counted += [(other, self.others[other]) for other in OTHERS]
        for name, _ in counted:
            table.add_column(name, justify="right")
        table.add_row(str(self.landed.total()), *(str(count) for _, count in counted))
        return table


def digests(run: Path) -> dict[str, str]:
    """Return the hash of the exported weights, of the last checkpoint, and of what was heard."""
    last = max((run / "checkpoints").glob("step-*"))
    files = [run / "model" / "model.safetensors", *run.glob("eval/step-0*/dev/utterances.jsonl")]
    files += [last / name for name in ("model.safetensors", "optimizer.bin", "state.json")]
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


def campaign(
    made: Campaign,
    losses: Losses,
    *,
    kills: int,
    events: list[int],
    others: int,
    longest: float,
) -> None:
    """Kill a run at random and at given events, let it end, and compare it with a whole one.

    Some strikes come too late, after the run's end, and are not counted.

    Args:
        made: the run, and the whole one.
        losses: reads a run's losses.
        kills: at random.
        events: of a save, at which it dies.
        others: how often each of the other things befalls it.
        longest: seconds until a kill.
    """
    made.finish(made.whole)
    rng = made.rng
    plan: list[Callable[[], None]] = [partial(made.die, event) for event in events]
    plan += [partial(made.kill, rng.uniform(0, longest)) for _ in range(kills)]
    for _ in range(others):
        for strike in (made.rewind, made.damage, made.start_twice):
            plan.append(partial(strike, rng.uniform(0, longest)))
        for where in OTHERS[-2:]:
            plan.append(partial(made.err, where, rng.randrange(1, 5), losses))
    rng.shuffle(plan)
    for strike in plan:
        strike()
        last = list((made.run / "checkpoints").glob("step-00000008*"))
        if last:  # nothing is left to be killed: compare, and begin again
            made.finish(made.run)
            made.compare(losses)
            again(made)
    made.finish(made.run)
    made.compare(losses)


def again(made: Campaign) -> None:
    """Forget the run that was killed."""
    shutil.rmtree(made.run)
    for file in made.notes[made.run].iterdir():
        file.unlink()
    made.saved = False


@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills_change_nothing(
    trainer: Any, tmp_path: Path, losses: Losses, processes: int
) -> None:
    made = Campaign(trainer, tmp_path, processes, seed=processes)
    events = [made.rng.randrange(1, 100) for _ in range(7 if processes == 1 else 4)]
    kills = 6 if processes == 1 else 3
    campaign(made, losses, kills=kills, events=events, others=1, longest=4.0)
    Console().print(made.table(f"{processes} processes"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_two_hundred_kills_change_nothing(
    trainer: Any, tmp_path: Path, losses: Losses, processes: int
) -> None:
    made = Campaign(trainer, tmp_path, processes, seed=10 + processes)
    campaign(made, losses, kills=90, events=list(range(1, 101)), others=20, longest=5.0)
    Console().print(made.table(f"{processes} processes"))
    assert made.landed.total() >= 100
    assert made.landed["inside a save"] >= 50
    assert all(made.others[other] >= 5 for other in OTHERS)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a shelf with three checkpoints, small and with the files that real ones have."""
    shelf = Shelf(tmp_path_factory.mktemp("shelf") / "checkpoints", CheckpointConfig(keep=3))
    for number in (1, 2, 3):
        pending = shelf.pending(number)
        pending.mkdir(parents=True)
        (pending / "model.safetensors").write_bytes(random.Random(number).randbytes(5000))
        (pending / "optimizer.bin").write_bytes(random.Random(-number).randbytes(9000))
        shelf.publish(pending, {"state": {"step": number, "best_step": 0}, "shape": {}})
    return shelf.folder


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


def corrupt(three: Path, tmp_path: Path, trials: int) -> Counter[str]:
    """Damage the newest of three checkpoints again and again; the second is taken each time."""
    found: Counter[str] = Counter()
    for trial in range(trials):
        folder = Path(shutil.copytree(three, tmp_path / f"{trial}"))
        how = damage(folder / "step-00000003", folder / "step-00000002", random.Random(trial))
        told: list[str] = []
        taken = Shelf(folder, CheckpointConfig()).newest(told.append)
        assert taken is not None
        # a flipped bit may leave the manifest's meaning as it was
        if step_of(taken) == 3:
            assert json.loads((taken / "manifest.json").read_text()) == json.loads(
                (three / taken.name / "manifest.json").read_text()
            ), (trial, how)
            found["without meaning"] += 1
        else:
            assert step_of(taken) == 2, (trial, how)
            assert "step-00000003 is passed over" in told[0]
            found[how] += 1
        shutil.rmtree(folder)
    return found


def test_fifty_corruptions_are_found(three: Path, tmp_path: Path) -> None:
    assert corrupt(three, tmp_path, 50).total() == 50


@pytest.mark.slow
def test_five_hundred_corruptions_are_found(three: Path, tmp_path: Path) -> None:
    found = corrupt(three, tmp_path, 500)
    table = Table(title="500 corruptions of the newest checkpoint", title_justify="left")
    for how in found:
        table.add_column(how, justify="right")
    table.add_row(*(str(count) for count in found.values()))
    Console().print(table)


def test_a_damaged_newest_checkpoint_costs_its_updates_and_nothing_else(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    made = Campaign(trainer, tmp_path, 1, seed=0)
    made.finish(made.whole)
    keep = ("--checkpoint.keep=3",)
    sabotage = partial(observe, made.notes[made.run], Fate(seed=made.seed))
    trainer(made.run, *SETTINGS, *keep, sabotage=sabotage)
    newest = made.run / "checkpoints" / "step-00000008" / "optimizer.bin"
    os.truncate(newest, newest.stat().st_size // 2)
    made.finish(made.run)
    log = (tmp_path / "run.0.log").read_text()
    assert "step-00000008 is passed over" in log
    assert "going on after update 6" in log
    made.compare(losses)


def test_checkpoints_of_which_none_is_whole_are_not_taken_for_a_fresh_start(
    trainer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trainer(run, "--loop.max_steps=1")
    (run / "checkpoints" / "step-00000001" / "model.safetensors").unlink()
    done = trainer(run, "--resume=auto", check=False)
    assert done.returncode == 2
    assert "no checkpoint is whole" in done.output
    with pytest.raises(InputError):
        Shelf(run / "checkpoints", CheckpointConfig()).newest(print)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_runs_full_costs_checkpoints_and_not_the_run(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=75m", "tmpfs", str(disk)], check=True)
    try:
        run, whole = disk / "run", tmp_path / "whole"
        trainer(whole, *SETTINGS)
        full = trainer(run, *SETTINGS, "--checkpoint.keep=9", check=False)
        assert "NO CHECKPOINT" in full.output
        assert full.returncode == 2
        assert "Traceback" not in full.output
        shelf = Shelf(run / "checkpoints", CheckpointConfig())
        assert shelf.newest(print) == shelf.all()[-1]  # what is there is whole
        for path in shelf.all()[:-1]:
            shutil.rmtree(path)  # a person frees some space
        trainer(run, *SETTINGS)
        assert losses(run) == losses(whole)
        assert digests(run) == digests(whole)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
