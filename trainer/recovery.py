"""Recovery from errors during training: out of memory, non-finite gradients, stop requests."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from data.batch import Batch, Shape
from trainer.nonfinite import exclude_failed_updates, refuse_more_rollbacks
from trainer.out_of_memory import reduced_limit, try_largest_pass
from trainer.process.signals import Stopped
from trainer.resume import resume
from trainer.run import Run, ensure_saved, save
from trainer.state import TrainState
from trainer.step import StepResult


def fit_passes_in_memory(run: Run) -> None:
    """On a GPU, try the largest pass before training, and make passes smaller until it fits.

    Raises:
        InputError: it does not fit, and cannot be made smaller.
    """
    training = run.training
    training.engine.model.train()
    while training.engine.accelerator.device.type == "cuda":
        largest = training.train_loader.largest
        reason = try_largest_pass(training.engine, largest)
        if reason is None:
            return
        shrink_passes(run, [largest], reason)


def shrink_passes(run: Run, shapes: Sequence[Shape], reason: str) -> None:
    """Make later forward passes smaller, after one did not fit; the plan does not change.

    Args:
        run: the run.
        shapes: of the passes, one of which did not fit.
        reason: message of the out-of-memory error.

    Raises:
        InputError: they cannot be made smaller.
    """
    training = run.training
    # the largest; a pass with a single row cannot be made smaller
    shape = max(shapes, key=lambda shape: (shape.rows > 1, training.flops.activation_bytes(shape)))
    training.engine.discard_gradients()
    training.engine.free_memory()
    seconds = reduced_limit(shape, training.engine.accelerator.num_processes, reason)
    training.train_loader.shrink(seconds)
    run.monitors.recorder.print(
        f"warning: out of memory in a forward pass of {shape.seconds:.0f} s of padded audio "
        f"({reason}): the limit is now {seconds:.0f} s (data.max_seconds_per_forward; "
        "python -m trainer find-batch-size finds the largest that fits)"
    )


def roll_back_if_failing(run: Run, batches: Sequence[Batch], result: StepResult) -> bool:
    """Return to the newest checkpoint if too many updates in a row were not finite.

    Training skips these updates from then on.

    Returns:
        Whether it did. The state has then changed, and iteration must restart at its position.

    Raises:
        InputError: there were too many rollbacks.
    """
    state, monitors = run.state, run.monitors
    if not monitors.guard.check(state, batches, result):
        return False
    refuse_more_rollbacks(state)
    failed_state = TrainState()
    failed_state.load_state_dict(state.state_dict())
    loaded = _load_newest(run)
    exclude_failed_updates(failed_state, state)
    monitors.recorder.rewind(state.step)
    monitors.losses.rewind(state.step)
    monitors.recorder.print(
        f"warning: {'returned to' if loaded else 'no checkpoint yet, so training continues at'} "
        f"update {state.step}; {len(state.passed_over)} updates without a finite gradient are "
        "skipped (nonfinite.jsonl lists their clips)"
    )
    save(run)
    return True


def _load_newest(run: Run) -> bool:
    """Load the newest checkpoint; return False if there is none.

    The weights are then kept: updates without a finite gradient did not change them.
    """
    checkpoints = run.saving.checkpoints
    checkpoints.wait_for_write()
    path = checkpoints.find("auto")
    if path is not None:
        resume(path, checkpoints, run.state, run.validation, run.training.full_model)
    run.monitors.guard.discard_unread()
    return path is not None


@contextmanager
def save_on_exit(run: Run) -> Iterator[None]:
    """Save the last finished update if the body is asked to stop or fails.

    The model must hold the weights of that update, so this is for the training loop only.
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
def explain_stop(run: Run) -> Iterator[None]:
    """Add a message to Stopped: whether the last update was saved. All processes must call this.

    Raises:
        Stopped: with the message.
    """
    try:
        yield
    except Stopped as stopped:
        on_disk = run.saving.checkpoints.is_saved(run.state.step)
        # a new exception would keep the frames
        stopped.args = (_stop_message(run, on_disk=on_disk),)
        raise


def _save_after_error(run: Run) -> None:
    """Save on this process alone; errors while saving must not hide the one before."""
    monitors, checkpoints = run.monitors, run.saving.checkpoints
    monitors.heartbeat.pause_watchdog()  # a checkpoint may take any time
    actions: list[Callable[[], None]] = [lambda: monitors.guard.read_outcome_alone(run.state)]
    if run.training.engine.accelerator.num_processes == 1:
        actions.append(monitors.losses.write)  # with several, it would wait for the others
    actions.append(lambda: checkpoints.save_after_error(run.state, run.saving.fixed_knobs))
    for action in actions:
        try:
            action()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            checkpoints.print_fn(
                f"WARNING: update {run.state.step} could not be saved completely ({reason}); "
                "--resume=auto continues from the newest complete checkpoint"
            )


def _stop_message(run: Run, *, on_disk: bool) -> str:
    step = run.state.step
    if not step:
        return "stopped before the first update: start again with --resume=auto"
    if not on_disk:
        return (
            f"stopped at update {step} of {run.steps}, which could NOT be saved: free some disk "
            "space; --resume=auto continues from the checkpoint before it"
        )
    return f"stopped at update {step} of {run.steps}, saved: --resume=auto continues from there"
