"""The training loop."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.profiler import record_function as phase

from data.errors import InputError
from data.files import append_jsonl
from data.utterance import Batch
from trainer.checkpoint import Checkpoints
from trainer.optim import OptimConfig, lr_at
from trainer.profiling import NoProfile, Profile
from trainer.recorder import Recorder, Silence
from trainer.scoring import Scoring
from trainer.state import TrainState
from trainer.step import reseed, train_step
from trainer.telemetry import Meter


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long to train, and when to look."""

    max_steps: int | None = None  # updates; None: as many as `epochs` hold
    epochs: int = 3  # passes over the corpus, where max_steps is None
    eval_every: int = 500  # updates; the last one is evaluated as well
    patience: int | None = None  # evaluations without a better one until it stops; None: never

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        for key in ("max_steps", "epochs", "eval_every", "patience"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"loop.{key} must be at least 1, got {value}")


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything that training touches, built in main."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    loader: Iterable[Batch]
    state: TrainState
    meter: Meter
    recorder: Recorder | Silence
    scoring: Scoring
    checkpoints: Checkpoints
    profiler: Profile | NoProfile
    drops: Path  # drops.jsonl
    plan: dict[str, Any]  # the knobs that the plan depends on
    steps: int  # updates to make in all
    seed: int
    log_every: int
    config: LoopConfig
    optim: OptimConfig


def train(run: Run) -> None:
    """Update the model until the last step; record, evaluate and save when due."""
    state, config = run.state, run.config
    run.model.train()
    for batches in updates(run):
        reseed(run.seed, state.step, run.accelerator.process_index)
        lr = lr_at(state.step + 1, run.steps, run.optim)
        result = train_step(
            run.accelerator, run.model, run.optimizer, batches, lr=lr, max_norm=run.optim.max_norm
        )
        state.advance(batches[-1].after, result.tokens, result.audio_seconds)
        run.meter.add(batches, result)
        run.recorder.advance(state.step)
        run.profiler.step(batches)

        last = state.step == run.steps
        if due(state.step, run.log_every, last):
            run.recorder.record(state.step, {"train/lr": lr, **run.meter.read()})
        with run.meter.paused():
            better = due(state.step, config.eval_every, last) and run.scoring.judge(state)
            last = left(config, state, run.steps) == 0
            if better or due(state.step, run.checkpoints.config.save_every, last):
                run.checkpoints.save(state, run.plan)
            if better:
                run.scoring.keep_best(state)
        if last:
            break


def updates(run: Run) -> Iterator[list[Batch]]:
    """Yield the passes of one update at a time; clips that failed are named in drops.jsonl."""
    passes: list[Batch] = []
    batches = iter(run.loader)
    run.meter.start()
    while True:
        with run.meter.waiting(), phase("data wait"):
            batch = next(batches, None)
        if batch is None:
            return
        if batch.drops:
            append_jsonl(run.drops, map(asdict, batch.drops))
        passes.append(batch)
        if batch.last:
            yield passes
            passes = []


def due(step: int, every: int, last: bool) -> bool:
    """Tell whether something that happens every so many updates, and at the end, happens now."""
    return step % every == 0 or last


def left(config: LoopConfig, state: TrainState, steps: int) -> int:
    """Return the updates that are still to be made: none where patience ran out before."""
    exhausted = config.patience is not None and state.stale >= config.patience
    return 0 if exhausted else max(0, steps - state.step)
