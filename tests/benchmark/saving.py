"""What it costs that nothing is lost: the stall of a save, and the upkeep of every update.

    python tests/benchmark/saving.py --models MODEL [MODEL ...] --out saving.json

Takes folders with a Whisper each. The stall is the copy to host memory, for which training waits;
on a GPU, where the copy runs beside training, it is what an update takes longer right after it. The
rest is written beside it. The upkeep is what an update pays for signals, the watchdog, and
the look at its gradient, set against an update of 8 clips of 3 s on the same machine.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from data.batch import IGNORE_INDEX, Batch, Position, target_positions
from eval.whisper import load_whisper
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.pinned_memory import PinnedCopy
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation
from trainer.checkpoint.snapshot import Snapshot
from trainer.distributed.build_engine import build_engine
from trainer.heartbeat import Heartbeat
from trainer.metrics.recorder import JsonlLog, NullRecorder
from trainer.model import ModelConfig, prepare_training
from trainer.nonfinite import NonFiniteGuard
from trainer.optimizer import OptimConfig
from trainer.process.signals import StopSignal
from trainer.process.watchdog import Watchdog
from trainer.state import TrainState
from trainer.step import train_step

CLIPS, FRAMES, TOKENS = 8, 304, 16  # an update: 8 clips of 3 s
SAVE_MINUTES = 15  # between two saves, where the whole cost is summed up


def main() -> None:
    """Measure each model, write JSON, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("saving.json"))
    arguments = parser.parse_args()
    rows = [measure(name, arguments.updates, arguments.saves) for name in arguments.models]
    arguments.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    Console().print(table(rows))


def measure(name: str, updates: int, saves: int) -> dict[str, Any]:
    """Measure one model."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    whisper = load_whisper(name)
    module = prepare_training(whisper, ModelConfig())
    engine = build_engine(accelerator, module, ModelConfig(), OptimConfig(), print)
    batch = update(whisper.n_mels, accelerator.device)
    heartbeat = Heartbeat(accelerator, StopSignal(), Watchdog(60.0))
    folder = Path(tempfile.mkdtemp())
    log = JsonlLog(folder / "nonfinite.jsonl", NullRecorder())
    guard, state = NonFiniteGuard(accelerator, log, 8), TrainState()

    def bare() -> None:
        train_step(engine, [batch], tokens=CLIPS * TOKENS, max_norm=1.0)

    def upkeep() -> None:
        heartbeat.begin_update([batch], 0)
        list(heartbeat.watch([batch]))
        heartbeat.end_update()
        guard.check(state, [batch], result)

    result = train_step(engine, [batch], tokens=1, max_norm=1.0)
    told: list[str] = []
    checkpoints = Checkpoints(
        CheckpointRotation(folder, CheckpointConfig()), accelerator, told.append
    )
    update_seconds = statistics.median(seconds(bare) for _ in range(updates))
    stall_seconds = stall(accelerator, bare, update_seconds, saves)
    writes = []
    for number in range(saves):
        checkpoints.save(TrainState(step=number + 1), {})
        checkpoints.wait_for_write()
        writes.append(checkpoints.writer.seconds)
    size = sum(file.stat().st_size for file in max(folder.glob("step-*")).iterdir())
    row = {
        "model": Path(name).name,
        "update_seconds": update_seconds,
        "upkeep_seconds": statistics.median(seconds(upkeep) for _ in range(100)),
        "stall_seconds": stall_seconds,
        "write_seconds": statistics.median(writes),
        "checkpoint_bytes": size,
    }
    shutil.rmtree(folder)
    return row


def stall(
    accelerator: Accelerator, bare: Callable[[], None], update_seconds: float, saves: int
) -> float:
    """Return how long training waits for a copy: on a GPU the update after it takes longer."""
    if accelerator.device.type != "cuda":
        return statistics.median(seconds(lambda: Snapshot.take(accelerator)) for _ in range(saves))
    (optimizer,) = accelerator._optimizers
    pinned = PinnedCopy(optimizer.optimizer, accelerator.device, print)

    def beside() -> None:
        Snapshot.take(accelerator, pinned)
        bare()

    beside()  # allocates pinned memory, once
    return statistics.median(seconds(beside) for _ in range(saves)) - update_seconds


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def update(n_mels: int, device: torch.device) -> Batch:
    """Return an update's only pass."""
    labels = torch.full((CLIPS, TOKENS), 50)
    labels[:, -1] = IGNORE_INDEX
    return Batch(
        ids=[str(i) for i in range(CLIPS)],
        languages=["en"] * CLIPS,
        tasks=["transcribe"] * CLIPS,
        features=torch.randn(CLIPS, n_mels, FRAMES),
        decoder_input_ids=labels.clamp(min=0),
        labels=labels,
        targets=target_positions(labels),
        seconds=[FRAMES / 100] * CLIPS,
        tokens=[TOKENS - 1] * CLIPS,
        position=Position(0, 0),
        next_position=Position(0, 1),
        is_last=True,
    ).to(device)


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the figures, and their sum at a save every quarter of an hour."""
    shown = Table(title=f"a save every {SAVE_MINUTES} minutes", title_justify="left")
    for column in ("model", "checkpoint", "written in", "stall", "upkeep", "update", "cost"):
        shown.add_column(column, justify="right")
    for row in rows:
        cost = row["stall_seconds"] / (60 * SAVE_MINUTES)
        cost += row["upkeep_seconds"] / row["update_seconds"]
        shown.add_row(
            row["model"],
            f"{row['checkpoint_bytes'] / 1e6:,.0f} MB",
            f"{row['write_seconds']:.1f} s",
            f"{1e3 * row['stall_seconds']:.0f} ms",
            f"{1e6 * row['upkeep_seconds']:.0f} us",
            f"{1e3 * row['update_seconds']:.0f} ms",
            f"{cost:.3%}",
        )
    return shown


if __name__ == "__main__":
    main()
