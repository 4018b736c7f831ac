"""What a run does where something goes wrong on the way: it loses no finished update."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from data.batch import Shape
from trainer.nonfinite import pass_over, refuse_rollback
from trainer.out_of_memory import rehearse, seconds_after
from trainer.process.signals import Stopped
from trainer.resume import resume
from trainer.run import Run, ensure_saved, save
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
        InputError: they cannot be cut.
    """
    # one of a single row cannot be cut
    shape = max(shapes, key=lambda shape: (shape.rows > 1, run.flops.activation_bytes(shape)))
    discard_update(run.accelerator, run.optimizer)
    torch.cuda.empty_cache()
    seconds = seconds_after(shape, run.accelerator.num_processes, reason)
    run.passes.shrink(seconds)
    run.recorder.say(
        f"warning: out of memory in a pass of {shape.seconds:.0f} s of padded audio ({reason}): "
        f"from here on one holds {seconds:.0f} s (data.pass_seconds; python -m trainer fit finds "
        "the most)"
    )


def roll_back(run: Run) -> None:
    """Return to the last whole checkpoint, and pass over the updates that failed.

    Raises:
        InputError: it happened too often.
    """
    state = run.state
    refuse_rollback(state)
    failed_state = TrainState()
    failed_state.load_state_dict(state.state_dict())
    run.checkpoints.settle()
    found = run.checkpoints.find("auto")
    if found is not None:  # else no weight has moved since they failed: it goes on from here
        resume(found, run.checkpoints, state, run.validation, run.full_model)
        run.guard.forget()
    pass_over(failed_state, state)
    run.recorder.rewind(state.step)
    run.losses.rewind(state.step)
    run.recorder.say(
        f"warning: {len(state.passed_over)} updates without a finite gradient are passed over "
        f"(nonfinite.jsonl names their clips); back at update {state.step}"
    )
    save(run)


@contextmanager
def saved_on_exit(run: Run) -> Iterator[None]:
    """Save the last finished update where somebody asks to stop, and where an error ends training.

    Its weights have to be those of the state: this is for the training loop alone.
    """
    try:
        yield
    except Stopped:
        if run.state.step:
            ensure_saved(run)
        raise
    except Exception:
        _save_after_error(run)
        raise


@contextmanager
def stop_explained(run: Run) -> Iterator[None]:
    """Give a request to stop a sentence for a person; every process is to come here with it.

    Raises:
        Stopped: with the sentence.
    """
    try:
        yield
    except Stopped as stopped:
        on_disk = run.checkpoints.is_saved(run.state.step)
        stopped.args = (_stop_message(run, on_disk=on_disk),)  # a new one would keep the frames
        raise


def _save_after_error(run: Run) -> None:
    """Save on this process alone; the error that ends training is worth more than why it failed."""
    run.heartbeat.pause_watchdog()  # a checkpoint may take long
    actions: list[Callable[[], None]] = [lambda: run.guard.settle_alone(run.state)]
    if run.accelerator.num_processes == 1:  # of several, the others' shares are out of reach
        actions.append(run.losses.write)
    actions.append(lambda: run.checkpoints.save_after_error(run.state, run.shape))
    for action in actions:
        try:
            action()
        except Exception as error:  # whatever it is
            reason = f"{type(error).__name__}: {error}"
            run.checkpoints.say(
                f"WARNING: not all of update {run.state.step} could be saved ({reason}); "
                "--resume=auto goes on from the newest whole checkpoint"
            )


def _stop_message(run: Run, *, on_disk: bool) -> str:
    step = run.state.step
    if not step:
        return "stopped before the first update: start again with --resume=auto"
    if not on_disk:
        return (
            f"stopped at update {step} of {run.steps}; it could NOT be saved: free some space; "
            "--resume=auto goes on from the checkpoint before"
        )
    return f"stopped at update {step} of {run.steps}, saved: --resume=auto goes on from there"
