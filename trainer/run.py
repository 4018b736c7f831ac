"""Everything that training touches."""

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn

from data.dataloader import TrainLoader
from data.errors import InputError
from data.streaming.windowed_loader import StreamTrainLoader
from trainer.checkpoint.manager import Checkpoints
from trainer.distributed.fsdp import FullModel
from trainer.heartbeat import Heartbeat
from trainer.metrics.clip_losses import ClipLosses
from trainer.metrics.failed_clips import DropLog
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.meter import TrainMetrics
from trainer.metrics.profiler import NoProfile, Profile
from trainer.metrics.recorder import NullRecorder, Recorder
from trainer.metrics.wall_clock import WallClock
from trainer.nonfinite import NonFiniteGuard
from trainer.optimizer import OptimConfig
from trainer.state import TrainState
from trainer.validation import Validation


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long to train, and when to look."""

    max_steps: int | None = None  # updates; None: as many as `epochs` hold
    epochs: int = 3  # passes over the corpus, where max_steps is None
    eval_every: int = 500  # updates; the last one is evaluated as well
    eval_clips: int | None = 400  # of dev, the same each time; all of it at the end; None: all
    patience: int | None = None  # evaluations without a better one until it stops; None: never
    max_failed: int = 8  # updates in a row without a finite gradient, until it rolls back
    stall_seconds: float = 60.0  # in a pass without progress until it is ended; 0: never

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        for key in ("max_steps", "epochs", "eval_every", "eval_clips", "patience", "max_failed"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"loop.{key} must be at least 1, got {value}")
        if not self.stall_seconds >= 0:
            raise InputError(f"loop.stall_seconds must be 0 or more, got {self.stall_seconds}")


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything that training touches, built in main."""

    accelerator: Accelerator
    model: nn.Module
    full_model: FullModel
    optimizer: Any
    passes: TrainLoader | StreamTrainLoader
    state: TrainState
    heartbeat: Heartbeat
    guard: NonFiniteGuard
    flops: WhisperFlops
    meter: TrainMetrics
    clock: WallClock
    losses: ClipLosses
    recorder: Recorder | NullRecorder
    validation: Validation
    checkpoints: Checkpoints
    profiler: Profile | NoProfile
    drops: DropLog
    shape: dict[str, Any]  # the knobs that shape training
    steps: int  # updates to make in all
    save_every: int
    log_every: int
    seed: int
    config: LoopConfig
    optim: OptimConfig


def save(run: Run) -> None:
    """Begin to write a checkpoint."""
    with run.clock.on("saving"):
        run.guard.settle(run.state)
        run.losses.write()  # a start from this checkpoint does not make these updates again
        run.checkpoints.save(run.state, run.shape)
    run.heartbeat.save_seconds = run.checkpoints.seconds


def ensure_saved(run: Run) -> bool:
    """Save the last update unless it is on the disk; return whether it is there now."""
    if not run.checkpoints.is_saved(run.state.step):
        save(run)
    return run.checkpoints.is_saved(run.state.step)
