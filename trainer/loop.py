"""The training loop: fetch, update, record, evaluate and save."""

from collections.abc import Iterator, Sequence

from torch.profiler import record_function as phase

from data.batch import Batch
from eval.device import out_of_memory
from trainer.optimizer import lr_at
from trainer.recovery import roll_back_if_failing, shrink_passes
from trainer.run import LoopConfig, Run, ensure_saved, save
from trainer.state import Totals, TrainState
from trainer.step import StepResult, reseed, set_lr, train_step

SILENCE_STATES_EVERY = 20  # updates: computing them costs as much as an update of 10 s of audio


def train(run: Run) -> None:
    """Update the model until the last step; record, evaluate and save when due."""
    state, monitors = run.state, run.monitors
    run.training.engine.model.train()
    make_up_for_evaluation(run)
    monitors.meter.reset()
    while remaining := steps_left(run.config, state, run.steps):
        # start at the current position: again after a rollback or an out-of-memory error
        loader = run.training.train_loader
        iterator = loader.start(state.position, remaining, state.skipped_positions)

        # fetch the forward passes of an update
        while batches := fetch(run, iterator):
            totals = monitors.heartbeat.begin_update(batches, monitors.drops.num_unlogged())
            monitors.drops.write(totals.dropped)

            # forward and backward passes, optimizer
            lr = prepare_step(run)
            result = try_step(run, batches, totals)
            if result is None:  # out of memory
                break

            # record
            state.advance(batches[-1].next_position, totals)
            monitors.add(state.step, batches, result)
            if roll_back_if_failing(run, batches, result):
                break
            if due(state.step, monitors.log_every, last=state.step == run.steps):
                monitors.losses.write()
                monitors.recorder.record(state.step, {"train/lr": lr, **monitors.meter.read()})

            # evaluate and save
            with monitors.meter.paused(), monitors.profiler.paused():
                evaluate_and_save(run)
            if not steps_left(run.config, state, run.steps):
                break
    make_up_for_evaluation(run)


def fetch(run: Run, iterator: Iterator[Batch]) -> list[Batch]:
    """Return the forward passes of the next update.

    Returns an empty list at the end of the data, and after an out-of-memory error while a batch was
    moved to the device: the iterator must then be restarted, with smaller passes.
    """
    monitors, batches = run.monitors, list[Batch]()
    try:
        while not (batches and batches[-1].is_last):
            with monitors.meter.waiting(), monitors.clock.measure("waiting"), phase("data wait"):
                batch = next(iterator, None)
            if batch is None:
                return batches
            monitors.drops.add(batch.drops)
            batches.append(batch)
        return batches
    except RuntimeError as error:
        reason = out_of_memory(error)
    batches.clear()  # after the except block, whose traceback holds what was allocated
    shrink_passes(run, [run.training.train_loader.largest], reason)
    return []


def prepare_step(run: Run) -> float:
    """Set the seed, the silence states and the learning rate of the next update.

    Returns:
        The learning rate.
    """
    step, training = run.state.step, run.training
    reseed(training.seed, step, training.engine.accelerator.process_index)
    if due(step, SILENCE_STATES_EVERY, last=False):
        training.full_model.update_silence_states()
    lr = lr_at(step + 1, run.steps, training.optim)
    set_lr(training.engine.optimizer, lr)
    return lr


def try_step(run: Run, batches: Sequence[Batch], totals: Totals) -> StepResult | None:
    """Make an update and return its result, or None if a pass did not fit in memory."""
    engine, heartbeat = run.training.engine, run.monitors.heartbeat
    tokens, max_norm = totals.tokens, run.training.optim.max_norm
    try:
        return train_step(engine, heartbeat.watch(batches), tokens=tokens, max_norm=max_norm)
    except RuntimeError as error:
        reason = out_of_memory(error)
    finally:
        heartbeat.end_update()
    shrink_passes(run, [batch.shape for batch in batches], reason)
    return None


def evaluate_and_save(run: Run) -> None:
    """Save and evaluate, each if due."""
    step = run.state.step
    if evaluation_due(run) or due(step, run.saving.save_every, last=step == run.steps):
        save(run)  # before the evaluation: if that fails, no update is lost
    if evaluation_due(run):
        evaluate(run)


def evaluate(run: Run) -> None:
    """Evaluate dev, and export the model if it is the best so far and its checkpoint is on disk."""
    state, validation = run.state, run.validation
    run.training.engine.free_memory()
    run.training.full_model.refresh()
    error, better = validation.evaluate_dev(state)
    on_disk = better and ensure_saved(run)
    state.record_evaluation(error, better=better, on_disk=on_disk)
    if better and not on_disk:
        best = f"update {state.best_step} stays the best" if state.best_step else "there is no best"
        run.monitors.recorder.print(
            f"WARNING: update {state.step} is better, but its checkpoint could not be written: "
            f"{best}; free some disk space"
        )
        return
    save(run)
    if better:
        validation.export_best(state)


def evaluation_due(run: Run) -> bool:
    """Return whether the model is to be evaluated after the last update made."""
    step = run.state.step
    return run.has_dev and due(step, run.config.eval_every, last=step == run.steps)


def make_up_for_evaluation(run: Run) -> None:
    """Evaluate the last update if that is due and was not done.

    The run was stopped before the evaluation had finished, or the update was rolled back.
    """
    if evaluation_due(run) and run.state.evaluated_step < run.state.step:
        evaluate_and_save(run)


def due(step: int, every: int, *, last: bool) -> bool:
    """Return whether an action that happens every so many updates, and after the last, is due."""
    return step % every == 0 or last


def steps_left(config: LoopConfig, state: TrainState, steps: int) -> int:
    """Return the number of updates left: 0 if evaluations without a better model ran out."""
    exhausted = config.patience is not None and state.evaluations_since_best >= config.patience
    return 0 if exhausted else max(0, steps - state.step)
