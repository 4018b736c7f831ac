"""What a run does where something goes wrong on the way: it loses no finished update."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from data.errors import InputError
from data.utterance import Shape
from trainer.guard import pass_over
from trainer.memory import rehearse, seconds_after
from trainer.run import Run, save
from trainer.signals import Stopped
from trainer.state import TrainState
from trainer.step import discard_update


def rehearsed(run: Run) -> bool:
    """Make the pass that takes the most memory first; return whether it fitted, else make room."""
    worst = run.passes.worst
    reason = rehearse(run.accelerator, run.model, run.optimizer, worst)
    if reason is not None:
        make_room(run, [worst], reason)
    return reason is None


def make_room(run: Run, shapes: Sequence[Shape], reason: str) -> None:
    """Cut passes smaller from here on, after one did not fit: the plan stays.

    Args:
        run: the run.
        shapes: of the passes, one of which did not fit.
        reason: what the library said that had no memory.

    Raises:
        InputError: they cannot be cut; the last finished update is saved.
    """
    # one of a single row cannot be cut
    shape = max(shapes, key=lambda shape: (shape.rows > 1, run.flops.activation_bytes(shape)))
    discard_update(run.accelerator, run.optimizer)
    torch.cuda.empty_cache()
    try:
        seconds = seconds_after(shape, run.accelerator.num_processes, reason)
    except InputError:
        run.checkpoints.rescue(run.state, run.shape)
        raise
    run.passes.shrink(seconds)
    run.recorder.say(
        f"warning: out of memory in a pass of {shape.seconds:.0f} s of padded audio ({reason}): "
        f"from here on one holds {seconds:.0f} s (data.pass_seconds; python -m trainer fit finds "
        "the most)"
    )


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
    run.losses.rewind(state.step)
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
