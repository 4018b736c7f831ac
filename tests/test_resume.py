"""Six updates equal three, a stop, and three: bit for bit."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

# 24 clips, 16 an update: an epoch is two updates, so its end lies on the way more than once
HARD = ("--data.update_clips=16", "--model.dropout=0.1", "--loop.max_steps=6")
Losses = Callable[[Path], dict[int, str]]


@pytest.mark.parametrize(
    ("processes", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2)], ids=lambda value: str(value)
)
def test_six_updates_equal_three_and_three(
    trainer: Any, tmp_path: Path, losses: Losses, processes: int, workers: int
) -> None:
    extra = (*HARD, f"--data.workers={workers}")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trainer(whole, *extra, processes=processes)
    trainer(cut, *extra, "--loop.max_steps=3", processes=processes)
    assert list(losses(cut)) == [1, 2, 3]
    trainer(cut, *extra, "--resume=auto", processes=processes)
    assert losses(cut) == losses(whole)
    weights, again = (load_file(run / "model" / "model.safetensors") for run in (whole, cut))
    assert all((weights[name] == again[name]).all() for name in weights)


def test_two_processes_train_as_one_does(trainer: Any, tmp_path: Path, losses: Losses) -> None:
    extra = ("--optim.lr=1e-5", "--data.pass_seconds=9", "--loop.max_steps=12")
    one, two = tmp_path / "one", tmp_path / "two"
    trainer(one, *extra)
    trainer(two, *extra, processes=2)
    for step, loss in losses(one).items():
        assert float.fromhex(losses(two)[step]) == pytest.approx(float.fromhex(loss), rel=1e-5)


def test_workers_do_not_change_the_bits(trainer: Any, tmp_path: Path, losses: Losses) -> None:
    runs = []
    for workers in (0, 2):
        runs.append(tmp_path / f"workers-{workers}")
        trainer(runs[-1], *HARD, f"--data.workers={workers}")
    assert losses(runs[0]) == losses(runs[1])


def test_a_killed_run_goes_on_exactly(trainer: Any, tmp_path: Path, losses: Losses) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    extra = ("--loop.max_steps=12", "--checkpoint.save_every=2")
    trainer(whole, *extra)
    (process,) = trainer.start(killed, *extra, "--resume=auto")
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "step-00000004").exists():
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    trainer(killed, *extra, "--resume=auto")
    assert losses(killed) == losses(whole)


def test_auto_without_a_checkpoint_is_a_fresh_start(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    run = tmp_path / "run"
    trainer(run, "--resume=auto", "--loop.max_steps=2")
    assert list(losses(run)) == [1, 2]
    again = trainer(run, "--resume=auto", "--loop.max_steps=2")  # nothing is left to do
    assert list(losses(run)) == [1, 2]
    assert "going on after update 2" in again.output


def test_a_run_that_exists_is_refused(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(run, "--loop.max_steps=1")
    done = trainer(run, check=False)
    assert done.returncode == 2
    assert "holds a run already" in done.output
    assert "Traceback" not in done.output


def test_an_older_checkpoint_rewinds_the_run(trainer: Any, tmp_path: Path, losses: Losses) -> None:
    run = tmp_path / "run"
    extra = ("--data.dev_split=dev", "--loop.eval_every=3", "--eval.max_length=8")
    trainer(run, *extra)
    first = losses(run)
    older = run / "checkpoints" / "step-00000003"
    trainer(run, *extra, f"--resume={older}")
    assert losses(run) == first
    facts = json.loads((run / "model" / "whisper_loop.json").read_text(encoding="utf-8"))
    state = json.loads(
        (run / "checkpoints" / "step-00000006" / "state.json").read_text(encoding="utf-8")
    )
    assert facts["step"] == state["state"]["best_step"]


def test_another_seed_is_refused_at_resume(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(run, "--loop.max_steps=3")
    done = trainer(run, "--resume=auto", "--seed=5", check=False)
    assert done.returncode == 2
    assert "seed=0, now it is 5" in done.output
