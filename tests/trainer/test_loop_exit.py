"""No finished update is lost, whatever ends training."""

import json
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.errors import InputError
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation, step_of

Losses = Callable[[Path], dict[int, str]]
RARELY = ("--checkpoint.save_every=1000", "--loop.max_steps=8")


def saved_steps(run: Path) -> list[int]:
    """Return the updates that have a whole checkpoint."""
    rotation = CheckpointRotation(run / "checkpoints", CheckpointConfig())
    assert rotation.newest(print) == rotation.all()[-1]
    return [step_of(path) for path in rotation.all()]


def test_an_evaluation_that_fails_costs_no_update(
    trainer: Any, copied: Path, tmp_path: Path, losses: Losses
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    knobs = (*RARELY, "--data.dev_split=dev", "--loop.eval_every=4", "--eval.max_length=4")
    knobs = (*knobs, "--data.corpus", str(copied))
    trainer(whole, *knobs)
    done = trainer(run, *knobs, sabotage=partial(lose_clip, copied, 3), check=False)
    assert done.returncode == 2
    assert "the file could be read when the run began" in done.output
    assert "Traceback" not in done.output
    assert saved_steps(run) == [4]
    os.rename(copied / "elsewhere.mp3", copied / "clips" / DEV)
    trainer(run, *knobs, "--resume=auto")
    assert losses(run) == losses(whole)


DEV = "common_voice_en_dev_003.mp3"


def lose_clip(corpus: Path, step: int) -> None:
    """Have a clip of dev vanish after an update."""
    from trainer.state import TrainState

    advance = TrainState.advance

    def advanced(self: TrainState, *arguments: Any) -> None:
        advance(self, *arguments)
        if self.step == step and (corpus / "clips" / DEV).exists():
            os.rename(corpus / "clips" / DEV, corpus / "elsewhere.mp3")

    TrainState.advance = advanced  # type: ignore[method-assign]


@pytest.mark.parametrize("processes", [1, 2])
def test_too_many_broken_clips_end_a_run_with_its_last_update_saved(
    trainer: Any, copied: Path, tmp_path: Path, losses: Losses, processes: int
) -> None:
    run = tmp_path / "run"
    corpus = ("--data.corpus", str(copied), "--data.workers=0")
    sabotage = partial(break_clips, copied, 2)
    done = trainer(run, *RARELY, *corpus, processes=processes, sabotage=sabotage, check=False)
    assert done.returncode == 2
    assert "more than data.max_broken_share" in done.output
    assert "Traceback" not in done.output
    assert saved_steps(run) == [max(losses(run))]
    assert not list((run / "checkpoints").glob(".pending*"))


def break_clips(corpus: Path, step: int) -> None:
    """Have all clips of train become unreadable after an update."""
    from trainer.state import TrainState

    advance = TrainState.advance

    def advanced(self: TrainState, *arguments: Any) -> None:
        advance(self, *arguments)
        if self.step == step:
            for path in (corpus / "clips").glob("*_train_*"):
                path.write_bytes(b"no audio")

    TrainState.advance = advanced  # type: ignore[method-assign]


def fail_at(step: int, where: str) -> None:
    """Have an update fail on the last process: in its forward, or while the optimizer moves."""
    import torch

    import trainer.loop
    from trainer.model import TrainingModule

    state: dict[str, int] = {}
    prepare = trainer.loop.prepare_step

    def prepared(run: Any) -> float:
        state["step"] = run.state.step
        return prepare(run)

    def fail() -> None:
        rank, world = (int(os.environ.get(key, value)) for key, value in COUNTS)
        if state.get("step") == step and rank == world - 1:
            raise RuntimeError("a fault of the program")

    trainer.loop.prepare_step = prepared
    if where == "forward":
        forward = TrainingModule.forward

        def failing(self: Any, *arguments: Any, **options: Any) -> Any:
            fail()
            return forward(self, *arguments, **options)

        TrainingModule.forward = failing  # type: ignore[method-assign]
    else:
        move = torch.optim.AdamW.step

        def moved(self: Any, *arguments: Any) -> Any:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1.0)  # half of an update
            fail()
            return move(self, *arguments)

        hooked: Any = torch.optim.Optimizer.profile_hook_step(moved)
        torch.optim.AdamW.step = hooked  # type: ignore[method-assign]


COUNTS = (("RANK", "0"), ("WORLD_SIZE", "1"))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_fault_of_the_program_leaves_the_last_finished_update(
    trainer: Any, tmp_path: Path, losses: Losses, processes: int
) -> None:
    run, whole = tmp_path / "run", trainer.reference(*RARELY, processes=processes)
    sabotage = partial(fail_at, 5, "forward")
    done = trainer(run, *RARELY, processes=processes, sabotage=sabotage, check=False)
    assert "a fault of the program" in done.output
    assert saved_steps(run) == [5]
    trainer(run, *RARELY, "--resume=auto", processes=processes)
    assert losses(run) == losses(whole)


def test_half_an_update_is_never_saved(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    extra = (*RARELY, "--checkpoint.save_every=3")
    done = trainer(run, *extra, sabotage=partial(fail_at, 5, "optimizer"), check=False)
    assert "a fault of the program" in done.output
    assert saved_steps(run) == [3]


def test_a_full_disk_at_the_end_does_not_hide_the_error(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = trainer(run, *RARELY, sabotage=fault_on_a_full_disk, check=False)
    assert "a fault of the program" in done.output
    assert "NO CHECKPOINT of update 5" in done.output
    facts = json.loads((run / "status.json").read_text(encoding="utf-8"))
    assert facts["reason"] == "RuntimeError: a fault of the program"


def fault_on_a_full_disk() -> None:
    """Fail where nothing can be written."""
    import trainer.checkpoint.writer

    fail_at(5, "forward")
    trainer.checkpoint.writer.RETRY_SECONDS = ()
    usage = type("Usage", (), {"free": 10})
    shutil.disk_usage = lambda _: usage  # type: ignore[assignment, misc, return-value]


def test_a_checkpoint_of_the_same_weights_is_written_once(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    knobs = ("--data.dev_split=dev", "--loop.eval_every=4", "--eval.max_length=4")
    trainer(run, *RARELY, *knobs, sabotage=partial(count_writes, tmp_path / "writes"))
    assert (tmp_path / "writes").read_text().split() == ["00000004", "00000008"]
    for step in (4, 8):
        state = json.loads((run / f"checkpoints/step-{step:08d}/state.json").read_text())["state"]
        assert (state["step"], state["evaluated_step"]) == (step, step)


def count_writes(log: Path) -> None:
    """Note each time that weights are written."""
    from trainer.checkpoint.snapshot import Snapshot

    write = Snapshot.write

    def written(self: Snapshot, folder: Path) -> None:
        with log.open("a") as file:
            file.write(folder.name[-8:] + "\n")
        write(self, folder)

    Snapshot.write = written  # type: ignore[method-assign]


def test_where_there_are_no_hard_links_the_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = CheckpointRotation(tmp_path / "checkpoints", CheckpointConfig())
    pending = rotation.pending_path(1)
    pending.mkdir(parents=True)
    (pending / "weights").write_bytes(b"w")
    state = {"step": 1, "best_step": 0}
    held = rotation.commit(pending, {"state": state, "shape": {}})

    def refuse(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    again = rotation.rewrite_state(held, {"state": {**state, "best_step": 1}, "shape": {}})
    assert rotation.newest(print) == again == held
    assert json.loads((again / "state.json").read_text())["state"]["best_step"] == 1
    shutil.rmtree(again)


def fail_beside_a_save(step: int) -> None:
    """Have the last process fail while the main one waits to save the same update."""
    import trainer.loop
    from trainer.checkpoint.snapshot import Snapshot

    write, fetch = Snapshot.write, trainer.loop.fetch

    def slowly(self: Snapshot, folder: Path) -> None:
        write(self, folder)
        time.sleep(2.0 if os.environ["RANK"] == "0" else 3.0)

    def failing(run: Any, batches: Any) -> Any:
        if os.environ["RANK"] == "1" and run.state.step == step:
            raise RuntimeError("a fault of the program")
        return fetch(run, batches)

    Snapshot.write = slowly  # type: ignore[method-assign]
    trainer.loop.fetch = failing


def test_two_processes_that_save_one_update_at_once_leave_a_whole_checkpoint(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    run, whole = tmp_path / "run", trainer.reference(*RARELY, processes=2)
    often = ("--checkpoint.save_every=2", "--checkpoint.keep=1", "--loop.max_steps=8")
    sabotage = partial(fail_beside_a_save, 4)
    trainer(run, *often, processes=2, sabotage=sabotage, check=False)
    (step,) = saved_steps(run)
    assert step == 4
    files = {path.name for path in (run / "checkpoints" / "step-00000004").iterdir()}
    assert {"model.safetensors", "optimizer.bin"} <= files
    trainer(run, *often, "--resume=auto", processes=2)
    assert losses(run) == losses(whole)


def fail_together(step: int) -> None:
    """Have all processes raise the same error after an update; one writes slowly."""
    import trainer.loop
    from trainer.checkpoint.snapshot import Snapshot

    write, prepare = Snapshot.write, trainer.loop.prepare_step

    def slowly(self: Snapshot, folder: Path) -> None:
        write(self, folder)
        time.sleep(2.0)

    def failing(run: Any) -> float:
        if run.state.step == step:
            raise RuntimeError("a fault of the program")
        return prepare(run)

    Snapshot.write = slowly  # type: ignore[method-assign]
    trainer.loop.prepare_step = failing


def test_no_process_ends_before_the_one_that_saves(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    started = trainer.start(run, *RARELY, processes=2, sabotage=partial(fail_together, 3))
    while all(process.is_alive() for process in started):
        time.sleep(0.02)
    assert saved_steps(run) == [3]  # a launcher would kill the others now
    for process in started:
        process.join(60)
    assert not list((run / "checkpoints").glob(".pending*"))


def test_a_checkpoint_without_weights_is_none(tmp_path: Path) -> None:
    rotation = CheckpointRotation(tmp_path / "checkpoints", CheckpointConfig())
    progress = {"state": {"step": 1, "best_step": 0}, "shape": {}}
    with pytest.raises(FileNotFoundError):  # somebody took it away: it is not made anew
        rotation.commit(rotation.pending_path(1), progress)
    rotation.pending_path(1).mkdir(parents=True)
    rotation.commit(rotation.pending_path(1), progress)
    with pytest.raises(InputError, match="contains no weights"):
        rotation.newest(print)


def test_a_run_goes_on_from_a_checkpoint_that_was_set_aside(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(run, "--checkpoint.save_every=2")
    trainer(run, "--checkpoint.save_every=2", f"--resume={run / 'checkpoints' / 'step-00000004'}")
    (aside,) = (run / "checkpoints").glob("replaced-*-step-00000006")
    trainer(run, "--checkpoint.save_every=2", f"--resume={aside}", "--loop.max_steps=8")
    assert saved_steps(run)[-1] == 8
