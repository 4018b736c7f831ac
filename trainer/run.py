"""Run: everything that the training loop uses, grouped into training, saving and monitors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from data.batch import Batch
from data.dataloader import TrainLoader
from data.errors import InputError
from data.sampling.epoch_plan import Plan
from data.streaming.stream_train_loader import StreamTrainLoader
from eval.main_process import run_on_main_process
from trainer.checkpoint.manager import Checkpoints
from trainer.distributed.engine import Engine
from trainer.distributed.fsdp import FullModel
from trainer.heartbeat import Heartbeat
from trainer.metrics.clip_losses import ClipLosses
from trainer.metrics.failed_clips import DropLog
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.profiler import NoProfile, Profile
from trainer.metrics.recorder import NullRecorder, Recorder
from trainer.metrics.train_metrics import TrainMetrics
from trainer.metrics.wall_clock import WallClock
from trainer.nonfinite import NonFiniteGuard
from trainer.optimizer import OptimConfig
from trainer.state import TrainState
from trainer.step import StepResult
from trainer.validation import Validation


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """The length of training, and evaluations during it."""

    max_steps: int | None = None  # Updates to train for. None trains for loop.epochs.
    epochs: int = 3  # Passes over the corpus to train for, if loop.max_steps is None.
    # Updates between two evaluations of dev. The last update is evaluated too.
    eval_every: int = 500
    # Clips of dev in an evaluation, always the same. At the end the chosen model is scored on all
    # of dev. None is all.
    eval_clips: int | None = 400
    # Evaluations without a better model after which training stops. None never stops early.
    patience: int | None = None
    # Updates in a row with a gradient that is not finite, before training rolls back.
    max_nonfinite_steps: int = 8
    # Seconds without progress after which the run is ended, or five times the slowest forward pass
    # if that is longer. 0 never ends it.
    stall_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a number is out of its range.
        """
        for key in (
            "max_steps",
            "epochs",
            "eval_every",
            "eval_clips",
            "patience",
            "max_nonfinite_steps",
        ):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"loop.{key} must be at least 1, got {value}")
        if not self.stall_seconds >= 0:
            raise InputError(f"loop.stall_seconds must be 0 or more, got {self.stall_seconds}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The model, its optimizer and its data."""

    engine: Engine  # model and optimizer
    full_model: FullModel  # the unsharded weights, which are evaluated and exported
    train_loader: TrainLoader | StreamTrainLoader
    optim: OptimConfig
    flops: WhisperFlops
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """Checkpoints, and what is saved with them."""

    checkpoints: Checkpoints
    fixed_knobs: dict[str, Any]  # knobs that a resume must not change
    save_every: int  # updates


@dataclass(frozen=True, kw_only=True, slots=True)
class Monitors:
    """Watches over training, and its logs."""

    heartbeat: Heartbeat
    guard: NonFiniteGuard
    drops: DropLog
    meter: TrainMetrics
    clock: WallClock
    losses: ClipLosses
    profiler: Profile | NoProfile
    recorder: Recorder | NullRecorder
    log_every: int  # updates

    def add(self, step: int, batches: Sequence[Batch], result: StepResult) -> None:
        """Add an update to the metrics, without reading from the device."""
        self.meter.add(batches, result)
        self.losses.add(step, batches, result)
        self.recorder.advance(step)
        if shares := self.profiler.step(batches):
            self.recorder.record(step, shares)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Everything that the training loop uses; built in main."""

    config: LoopConfig
    state: TrainState
    training: Training
    saving: Saving
    monitors: Monitors
    validation: Validation
    has_dev: bool  # whether the corpus has clips to evaluate on
    steps: int  # updates to make in total


def save(run: Run) -> None:
    """Start to write a checkpoint in the background."""
    monitors, checkpoints = run.monitors, run.saving.checkpoints
    with monitors.clock.measure("saving"):
        monitors.guard.read_outcome(run.state)
        monitors.losses.write()  # a resume from this checkpoint does not repeat these updates
        checkpoints.save(run.state, run.saving.fixed_knobs)
    monitors.heartbeat.save_seconds = checkpoints.writer.seconds


def ensure_saved(run: Run) -> bool:
    """Save the last update unless it is on disk; return whether it is on disk now."""
    checkpoints = run.saving.checkpoints
    if not checkpoints.is_saved(run.state.step):
        save(run)
    return checkpoints.is_saved(run.state.step)


def num_steps(config: LoopConfig, plan: Plan, accelerator: Accelerator) -> int:
    """Return the number of updates to make in total."""
    if config.max_steps is not None:
        return config.max_steps
    return run_on_main_process(accelerator, lambda: plan.num_updates(config.epochs))
