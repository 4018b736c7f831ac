"""What a run does where something goes wrong: it loses no finished update."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from data.batch import Batch, Shape
from trainer.nonfinite import pass_over, refuse_rollback
from trainer.out_of_memory import rehearse, seconds_after
from trainer.process.signals import Stopped
from trainer.resume import resume
from trainer.run import Run, ensure_saved, save
from trainer.state import TrainState
from trainer.step import StepResult


def fit_in_memory(run: Run) -> None:
    """On a GPU, make the pass that takes the most memory before training; cut passes until it fits.

    Raises:
        InputError: it does not fit, and cannot be cut.
    """
    training = run.training
    training.engine.model.train()
    while training.engine.accelerator.device.type == "cuda":
        worst = training.passes.largest
        reason = rehearse(training.engine, worst)
        if reason is None:
            return
        cut_passes(run, [worst], reason)


def cut_passes(run: Run, shapes: Sequence[Shape], reason: str) -> None:
    """Cut passes smaller from here on, after one did not fit: the plan stays.

    Args:
        run: the run.
        shapes: of the passes, one of which did not fit.
        reason: what the library said that had no memory.

    Raises:
        InputError: they cannot be cut.
    """
    training = run.training
    # one of a single row cannot be cut
    shape = max(shapes, key=lambda shape: (shape.rows > 1, training.flops.activation_bytes(shape)))
    training.engine.discard_gradients()
    torch.cuda.empty_cache()
    seconds = seconds_after(shape, training.engine.accelerator.num_processes, reason)
    training.passes.shrink(seconds)
    run.monitors.recorder.print(
        f"warning: out of memory in a pass of {shape.seconds:.0f} s of padded audio ({reason}): "
        f"from here on one holds {seconds:.0f} s (data.max_seconds_per_forward; "
        "python -m trainer find-batch-size finds the most)"
    )


def rolled_back(run: Run, batches: Sequence[Batch], result: StepResult) -> bool:
    """Return to the last whole checkpoint where too many updates in a row have failed.

    Those are passed over from there on.

    Returns:
        Whether it did: the state is then another one, and the plan is to be drawn from there.

    Raises:
        InputError: it happened too often.
    """
    state, monitors = run.state, run.monitors
    if not monitors.guard.check(state, batches, result):
        return False
    refuse_rollback(state)
    failed_state = TrainState()
    failed_state.load_state_dict(state.state_dict())
    _load_newest(run)
    pass_over(failed_state, state)
    monitors.recorder.rewind(state.step)
    monitors.losses.rewind(state.step)
    monitors.recorder.print(
        f"warning: {len(state.passed_over)} updates without a finite gradient are passed over "
        f"(nonfinite.jsonl names their clips); back at update {state.step}"
    )
    save(run)
    return True


def _load_newest(run: Run) -> None:
    """Load the newest whole checkpoint; where there is none, no weight has moved since."""
    checkpoints = run.saving.checkpoints
    checkpoints.settle()
    found = checkpoints.find("auto")
    if found is not None:
        resume(found, checkpoints, run.state, run.validation, run.training.full_model)
        run.monitors.guard.forget()


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
        on_disk = run.saving.checkpoints.is_saved(run.state.step)
        stopped.args = (_stop_message(run, on_disk=on_disk),)  # a new one would keep the frames
        raise


def _save_after_error(run: Run) -> None:
    """Save on this process alone; the error that ends training is worth more than why it failed."""
    monitors, checkpoints = run.monitors, run.saving.checkpoints
    monitors.heartbeat.pause_watchdog()  # a checkpoint may take long
    actions: list[Callable[[], None]] = [lambda: monitors.guard.settle_alone(run.state)]
    if run.training.engine.accelerator.num_processes == 1:
        actions.append(monitors.losses.write)  # of several, the others' shares are out of reach
    actions.append(lambda: checkpoints.save_after_error(run.state, run.saving.shape))
    for action in actions:
        try:
            action()
        except Exception as error:  # whatever it is
            reason = f"{type(error).__name__}: {error}"
            checkpoints.print_fn(
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
