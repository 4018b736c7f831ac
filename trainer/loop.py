"""The training loop."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.profiler import record_function as phase

from data.errors import InputError
from data.loader import Passes
from data.utterance import Batch, Shape
from trainer.checkpoint import Checkpoints
from trainer.drops import DropLog
from trainer.guard import Guard, pass_over
from trainer.memory import rehearse, seconds_after
from trainer.optim import OptimConfig, lr_at
from trainer.profiling import NoProfile, Profile
from trainer.pulse import Pulse
from trainer.recorder import Recorder, Silence
from trainer.scoring import Scoring
from trainer.signals import Stopped
from trainer.state import TrainState
from trainer.step import StepResult, Totals, reseed, set_lr, train_step
from trainer.telemetry import Meter


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long to train, and when to look."""

    max_steps: int | None = None  # updates; None: as many as `epochs` hold
    epochs: int = 3  # passes over the corpus, where max_steps is None
    eval_every: int = 500  # updates; the last one is evaluated as well
    patience: int | None = None  # evaluations without a better one until it stops; None: never
    max_failed: int = 8  # updates in a row without a finite gradient, until it rolls back
    stall_seconds: float = 60.0  # without progress until it ends with its stacks; 0: never

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        for key in ("max_steps", "epochs", "eval_every", "patience", "max_failed"):
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
    optimizer: Any
    passes: Passes
    state: TrainState
    pulse: Pulse
    guard: Guard
    meter: Meter
    recorder: Recorder | Silence
    scoring: Scoring
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


def train(run: Run) -> None:
    """Update the model until the last step; record, evaluate and save when due."""
    state = run.state
    run.model.train()
    while run.accelerator.device.type == "cuda" and not rehearsed(run):
        make_room(run, run.passes.worst)
    if owed(run) and look(run):
        return
    for batches in updates(run):
        totals = run.pulse.begin(batches, run.drops.take())
        run.drops.count(totals.dropped)
        reseed(run.seed, state.step, run.accelerator.process_index)
        lr = lr_at(state.step + 1, run.steps, run.optim)
        set_lr(run.optimizer, lr)
        result = attempt(run, batches, totals)
        run.pulse.end()
        if result is None:
            make_room(run, max((b.shape for b in batches), key=lambda shape: shape.seconds))
            continue
        state.advance(batches[-1].after, totals.tokens, totals.audio_seconds)
        run.meter.add(batches, result)
        run.recorder.advance(state.step)
        run.profiler.step(batches)

        if run.guard.check(state, batches, result):
            roll_back(run)
            continue
        if due(state.step, run.log_every, state.step == run.steps):
            run.recorder.record(state.step, {"train/lr": lr, **run.meter.read()})
        with run.meter.paused():
            if look(run):
                break


def updates(run: Run) -> Iterator[list[Batch]]:
    """Yield the passes of one update at a time, from where the state stands."""
    run.meter.start()
    while remaining := left(run.config, run.state, run.steps):
        batches = run.passes.start(run.state.position, remaining, run.state.gone)
        while update := fetch(run, batches):
            yield update
            if run.state.position != update[-1].after:  # rolled back
                break


def fetch(run: Run, batches: Iterator[Batch]) -> list[Batch]:
    """Return the passes of the next update; measure the wait, and name clips that failed."""
    update: list[Batch] = []
    while not (update and update[-1].last):
        with run.meter.waiting(), phase("data wait"):
            batch = next(batches, None)
        if batch is None:
            break
        run.drops.add(batch.drops)
        update.append(batch)
    return update


def attempt(run: Run, batches: Sequence[Batch], totals: Totals) -> StepResult | None:
    """Make an update; return what it did, or None where a pass did not fit in memory."""
    passes = run.pulse.passes(batches, totals)
    tokens, norm = totals.tokens, run.optim.max_norm
    try:
        return train_step(
            run.accelerator, run.model, run.optimizer, passes, tokens=tokens, max_norm=norm
        )
    except torch.OutOfMemoryError:
        return None


def rehearsed(run: Run) -> bool:
    """Make the pass that takes the most memory first; return whether it fitted."""
    return rehearse(run.accelerator, run.model, run.optimizer, run.passes.worst)


def make_room(run: Run, shape: Shape) -> None:
    """Cut passes smaller from here on, after one of this shape did not fit: the plan stays.

    Raises:
        InputError: they cannot be cut; the last finished update is saved.
    """
    run.optimizer.zero_grad()
    torch.cuda.empty_cache()
    try:
        seconds = seconds_after(shape, run.accelerator.num_processes)
    except InputError:
        run.checkpoints.rescue(run.state, run.shape)
        raise
    run.passes.shrink(seconds)
    run.recorder.say(
        f"warning: out of memory in a pass of {shape.seconds:.0f} s of padded audio: from here on "
        f"one holds {seconds:.0f} s (data.pass_seconds; python -m trainer fit finds the most)"
    )


def look(run: Run) -> bool:
    """Evaluate and save, where due; return whether training is over."""
    state, end = run.state, run.state.step == run.steps
    better = due(state.step, run.config.eval_every, end) and run.scoring.judge(state)
    over = left(run.config, state, run.steps) == 0
    if better or due(state.step, run.save_every, over):
        save(run)
    if better:
        run.scoring.keep_best(state)
    return over


def owed(run: Run) -> bool:
    """Tell whether the run was stopped before the evaluation of its last update was through."""
    state = run.state
    evaluates = run.scoring.manifest.dev and due(
        state.step, run.config.eval_every, state.step == run.steps
    )
    return bool(evaluates and state.judged < state.step)


def save(run: Run) -> None:
    """Begin to write a checkpoint."""
    run.guard.settle(run.state)
    run.checkpoints.save(run.state, run.shape)
    run.pulse.save_seconds = run.checkpoints.seconds


def roll_back(run: Run) -> None:
    """Return to the last whole checkpoint, and pass over the updates that failed."""
    state, saved = run.state, TrainState()
    run.checkpoints.settle()
    found = run.checkpoints.find("auto")
    if found is None:  # no weight has moved since they failed: it goes on from here
        saved.load_state_dict(state.state_dict())
    else:
        run.checkpoints.load(found, saved)
        run.guard.forget()
    pass_over(state, saved)
    state.load_state_dict(saved.state_dict())
    run.recorder.rewind(state.step)
    run.recorder.say(
        f"warning: {len(state.passed_over)} updates without a finite gradient are passed over "
        f"(nonfinite.jsonl names their clips); back at update {state.step}"
    )
    save(run)


@contextmanager
def saved_when_stopped(run: Run) -> Iterator[None]:
    """Where somebody asks to stop, save the last finished update first."""
    try:
        yield
    except Stopped:
        if run.state.step:
            save(run)
            run.checkpoints.settle()
        raise


def due(step: int, every: int, last: bool) -> bool:
    """Tell whether something that happens every so many updates, and at the end, happens now."""
    return step % every == 0 or last


def left(config: LoopConfig, state: TrainState, steps: int) -> int:
    """Return the updates that are still to be made: none where patience ran out before."""
    exhausted = config.patience is not None and state.stale >= config.patience
    return 0 if exhausted else max(0, steps - state.step)
