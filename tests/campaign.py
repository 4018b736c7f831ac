"""A run that is killed, damaged and resumed until it ends, compared with an uninterrupted one."""

import hashlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from data.atomic_files import read_jsonl
from tests.conftest import made_once
from tests.sabotage import OTHERS, PHASES, SAVING, Fate, damage, observe
from trainer.checkpoint.rotation import STATE, CheckpointConfig, CheckpointRotation, step_of
from trainer.metrics.recorder import METRICS

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
Losses = Callable[[Path], dict[int, str]]


class Campaign:
    """A run that is started until it ends, and killed on the way."""

    def __init__(self, trainer: Any, folder: Path, processes: int, seed: int) -> None:
        """Take what trains, the folder of the run that is killed, and its processes.

        The uninterrupted run depends on the seed: there is one for all tests with the same.
        """
        self.trainer = trainer
        self.folder = folder
        self.processes = processes
        self.rng = random.Random(seed)
        self.seed = seed
        self.landed: Counter[str] = Counter()
        self.others: Counter[str] = Counter()  # what befell it besides
        self.run = folder / "run"
        self.whole = trainer.shared / f"uninterrupted-{processes}-{seed}" / "run"
        self.notes = {run: run.parent / "notes" for run in (self.run, self.whole)}
        self.notes[self.run].mkdir()
        self.saved = False
        made_once(self.whole.parent, self.make_whole)

    def make_whole(self, folder: Path) -> None:
        """Train without interruption."""
        (folder / "notes").mkdir(parents=True)
        self.finish(self.whole)

    def start(self, run: Path, *extra: str, **fate: Any) -> list[Any]:
        """Start or resume the run."""
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

    def kill(self, delay: float) -> None:
        """Start the run and kill it after a while, wherever it is."""
        self.kill_later(self.start(self.run), delay)

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

    def begin_again(self) -> None:
        """Forget the run that was killed."""
        shutil.rmtree(self.run)
        for file in self.notes[self.run].iterdir():
            file.unlink()
        self.saved = False

    def rewind(self, delay: float) -> None:
        """Send the run back to any of its checkpoints, and kill it after a while."""
        found = self.rotation.all()
        if found:
            self.others["rewind"] += 1
            self.go_on(delay, f"--resume={self.rng.choice(found)}")

    def damage(self, delay: float) -> None:
        """Damage the newest checkpoint, if another one is left, and kill the run after a while."""
        found = self.rotation.all()
        if len(found) > 1:
            self.others["damage"] += 1
            damage(found[-1], found[-2], self.rng)
            self.go_on(delay)

    def go_on(self, delay: float, *extra: str) -> None:
        """Resume the run, and kill it some time after it started."""
        processes = self.start(self.run, *extra)
        log = self.folder / f"{self.run.name}.0.log"
        said = time.monotonic() + 60
        while processes[0].is_alive() and time.monotonic() < said:
            if log.exists() and "resuming after" in log.read_text():
                break
            time.sleep(0.005)
        self.kill_later(processes, delay / 4)

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

    def err(self, where: str, number: int) -> None:
        """Have the run end with an error: the last finished update is saved."""
        processes = self.start(self.run, fails=(where, number))
        for process in processes:
            process.join(120)
        if all(process.exitcode == 1 for process in processes):
            self.others[where] += 1
            newest = self.rotation.newest(print)
            assert (step_of(newest) if newest else 0) == self.updates()
            self.check()

    @property
    def rotation(self) -> CheckpointRotation:
        """Return the run's checkpoints."""
        return CheckpointRotation(self.run / "checkpoints", CheckpointConfig())

    def check(self) -> None:
        """Check that the files that checkpoints name exist, and no later evaluation is left."""
        steps = {step_of(path) for path in self.rotation.all()}
        for path in self.rotation.all():
            with suppress(OSError, ValueError):  # a damaged one names nothing
                named = json.loads((path / STATE).read_text())["state"]["best_step"]
                assert named in steps | {0}
        evaluated = [int(path.name[-8:]) for path in self.run.glob("eval/step-*")]
        assert max(evaluated, default=0) <= self.updates()

    def updates(self) -> int:
        """Return the last update in metrics.jsonl."""
        path = self.run / METRICS
        return max((row["step"] for row in read_jsonl(path)), default=0) if path.exists() else 0

    def count(self, place: str) -> None:
        """Count a kill; a whole checkpoint that was there once is never lost."""
        self.landed[place] += 1
        found = self.rotation.newest(lambda _: None)
        assert found is not None or not self.saved, f"seed {self.seed}: no checkpoint is left"
        self.saved = found is not None
        self.check()

    def place(self) -> str:
        """Return where the main process was when it was killed."""
        marks = self.notes[self.run] / "marks.0"
        values = marks.read_bytes() if marks.exists() else b""
        if not values:
            return PHASES[0]
        return "inside a save" if values[SAVING] else PHASES[values[0]]

    def compare(self, losses: Losses) -> None:
        """Check that the killed run equals the uninterrupted one."""
        self.check()
        assert losses(self.run) == losses(self.whole)
        for rank in range(self.processes):
            assert self.ids(self.run, rank) == self.ids(self.whole, rank)
        assert digests(self.run) == digests(self.whole)
        evaluations = [sorted(p.name for p in run.glob("eval/step-*")) for run in self.notes]
        assert evaluations[0] == evaluations[1]
        rates = [row["train/lr"] for row in read_jsonl(self.run / METRICS) if "train/lr" in row]
        assert min(rates) > 0  # else an update moves nothing

    def ids(self, run: Path, rank: int) -> dict[str, set[str]]:
        """Return the clips that were trained on at each position; all tries must be the same."""
        found: dict[str, set[str]] = {}
        for line in (self.notes[run] / f"ids.{rank}.jsonl").read_text().splitlines():
            row = json.loads(line)
            found.setdefault(str(row["at"]), set()).add(json.dumps(row["ids"]))
        assert all(len(tries) == 1 for tries in found.values())
        return found

    def table(self, title: str) -> Table:
        """Return where the kills happened, and the other events of the run."""
        where = {place: self.landed[place] for place in (*PHASES, "inside a save")}
        others = {other: self.others[other] for other in OTHERS}
        return counts(title, {"kills": self.landed.total(), **where, **others})


def counts(title: str, found: Mapping[str, int]) -> Table:
    """Return a table of the counts of events."""
    table = Table(title=title, title_justify="left", show_header=False)
    for what, count in found.items():
        table.add_row(what, str(count))
    return table


def digests(run: Path) -> dict[str, str]:
    """Return the hash of the exported weights, of the last checkpoint, and of the hypotheses."""
    last = max((run / "checkpoints").glob("step-*"))
    files = [run / "model" / "model.safetensors", *run.glob("eval/step-0*/dev/utterances.jsonl")]
    files += [last / name for name in ("model.safetensors", "optimizer.bin", "state.json")]
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
