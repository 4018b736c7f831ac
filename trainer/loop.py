"""The training loop."""

from collections.abc import Iterator, Sequence

from torch.profiler import record_function as phase

from data.batch import Batch
from eval.device import out_of_memory
from trainer.optimizer import lr_at
from trainer.recovery import make_room, rehearsed, roll_back
from trainer.run import LoopConfig, Run, ensure_saved, save
from trainer.state import TrainState
from trainer.step import StepResult, Totals, reseed, set_lr, train_step

SILENCE_EVERY = 20  # updates: listening costs as much as an update of 10 s of audio


def train(run: Run) -> None:
    """Update the model until the last step; record, evaluate and save when due."""
    state = run.state
    run.model.train()
    while run.accelerator.device.type == "cuda" and not rehearsed(run):
        continue
    if evaluation_missed(run) and look(run):
        return
    for batches in updates(run):
        totals = run.heartbeat.begin(batches, run.drops.take())
        run.drops.count(totals.dropped)
        lr = settle(run)
        result = attempt(run, batches, totals)
        run.heartbeat.end()
        if result is None:
            continue
        state.advance(batches[-1].after, totals.tokens, totals.audio_seconds)
        run.meter.add(batches, result)
        run.losses.add(state.step, batches, result)
        run.recorder.advance(state.step)
        run.profiler.step(batches)

        if run.guard.check(state, batches, result):
            roll_back(run)
            continue
        if due(state.step, run.log_every, state.step == run.steps):
            run.losses.write()
            run.recorder.record(state.step, {"train/lr": lr, **run.meter.read()})
        with run.meter.paused(), run.profiler.paused():
            if look(run):
                break


def settle(run: Run) -> float:
    """Make chance, silence and learning rate those of the next update; return the last."""
    step = run.state.step
    reseed(run.seed, step, run.accelerator.process_index)
    if due(step, SILENCE_EVERY, last=False):
        run.full_model.update_silence_states()
    lr = lr_at(step + 1, run.steps, run.optim)
    set_lr(run.optimizer, lr)
    return lr


def updates(run: Run) -> Iterator[list[Batch]]:
    """Yield the passes of one update at a time, from where the state stands."""
    run.meter.start()
    while remaining := left(run.config, run.state, run.steps):
        batches = run.passes.start(run.state.position, remaining, run.state.gone)
        while update := fetch(run, batches):
            yield update
            if run.state.position != update[-1].after:  # rolled back, or not made
                break


def fetch(run: Run, batches: Iterator[Batch]) -> list[Batch]:
    """Return the passes of the next update; measure the wait, and name clips that failed.

    Returns an empty list where none is left, or where there was no memory to move one to the
    device: smaller ones are then drawn from here on.
    """
    update: list[Batch] = []
    try:
        while not (update and update[-1].last):
            with run.meter.waiting(), run.clock.on("waiting"), phase("data wait"):
                batch = next(batches, None)
            if batch is None:
                return update
            run.drops.add(batch.drops)
            update.append(batch)
        return update
    except RuntimeError as error:
        reason = out_of_memory(error)
    update.clear()  # behind the except, which holds what was allocated
    make_room(run, [run.passes.worst], reason)
    return []


def attempt(run: Run, batches: Sequence[Batch], totals: Totals) -> StepResult | None:
    """Make an update; return what it did, or None where a pass did not fit in memory."""
    passes = run.heartbeat.passes(batches, totals)
    tokens, norm = totals.tokens, run.optim.max_norm
    try:
        return train_step(
            run.accelerator, run.model, run.optimizer, passes, tokens=tokens, max_norm=norm
        )
    except RuntimeError as error:
        reason = out_of_memory(error)
    run.heartbeat.pause_watchdog()  # no pass any more
    make_room(run, [batch.shape for batch in batches], reason)
    return None


def look(run: Run) -> bool:
    """Save and evaluate, where due; return whether training is over."""
    state, end = run.state, run.state.step == run.steps
    if evaluation_due(run) or due(state.step, run.save_every, end):
        save(run)  # first: whatever ends an evaluation shall cost no update
    if evaluation_due(run):
        evaluate(run)
    return left(run.config, state, run.steps) == 0


def evaluate(run: Run) -> None:
    """Evaluate, and export the model if it is the best so far: one that is on the disk."""
    state, validation = run.state, run.validation
    run.full_model.refresh()
    error, better = validation.evaluate_dev(state)
    on_disk = better and ensure_saved(run)
    state.note_evaluation(error, better=better, on_disk=on_disk)
    if better and not on_disk:
        best = f"update {state.best_step} stays the best" if state.best_step else "there is no best"
        run.recorder.say(
            f"WARNING: update {state.step} is better, but its checkpoint could not be written: "
            f"{best}; free some space"
        )
        return
    save(run)
    if better:
        validation.keep_best(state)


def evaluation_due(run: Run) -> bool:
    """Tell whether the update that was made last is to be evaluated."""
    step, end = run.state.step, run.state.step == run.steps
    return bool(run.validation.manifest.dev) and due(step, run.config.eval_every, end)


def evaluation_missed(run: Run) -> bool:
    """Tell whether the run was stopped before the evaluation of its last update was through."""
    return evaluation_due(run) and run.state.judged < run.state.step


def due(step: int, every: int, last: bool) -> bool:
    """Tell whether something that happens every so many updates, and at the end, happens now."""
    return step % every == 0 or last


def left(config: LoopConfig, state: TrainState, steps: int) -> int:
    """Return the updates that are still to be made: none where patience ran out before."""
    exhausted = config.patience is not None and state.stale >= config.patience
    return 0 if exhausted else max(0, steps - state.step)
