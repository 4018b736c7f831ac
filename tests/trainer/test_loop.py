"""When actions are due, when training stops early, and how a run ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.errors import InputError
from trainer.loop import due, steps_left
from trainer.run import LoopConfig
from trainer.state import TrainState

Losses = Callable[[Path], dict[int, str]]


def status_of(run: Path) -> dict[str, Any]:
    """Return how a run's last start ended."""
    status: dict[str, Any] = json.loads((run / "status.json").read_text(encoding="utf-8"))
    return status


def test_things_are_due_every_so_many_updates_and_at_the_end() -> None:
    assert [step for step in range(1, 8) if due(step, 3, last=step == 7)] == [3, 6, 7]


def test_patience_ends_a_run_and_a_resume_does_not_undo_it() -> None:
    config = LoopConfig(patience=2)
    assert steps_left(config, TrainState(step=3, evaluations_since_best=1), 10) == 7
    assert steps_left(config, TrainState(step=3, evaluations_since_best=2), 10) == 0
    assert steps_left(LoopConfig(), TrainState(step=12, evaluations_since_best=9), 10) == 0


def test_a_run_that_does_not_get_better_stops_and_stays_stopped(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    run = tmp_path / "run"
    extra = (
        "--data.dev_split=dev",
        "--loop.eval_every=1",
        "--loop.patience=2",
        "--optim.lr=1e-12",
        "--eval.max_length=4",
    )
    trainer(run, *extra)
    assert list(losses(run)) == [1, 2, 3]
    facts = json.loads((run / "model" / "whisper_loop.json").read_text(encoding="utf-8"))
    assert facts["step"] == 1
    trainer(run, *extra, "--resume=auto")
    assert list(losses(run)) == [1, 2, 3]
    assert status_of(run)["status"] == "finished"


def test_a_start_that_fails_says_so(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(run, "--data.train_split=trian", check=False)
    status = status_of(run)
    assert status["status"] == "failed"
    assert "trian" in status["reason"]


def test_epochs_count_the_plan(trainer: Any, tmp_path: Path, losses: Losses) -> None:
    run = tmp_path / "run"
    trainer(run, "--loop.max_steps=None", "--loop.epochs=2")
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]  # 24 clips, 8 an update


@pytest.mark.parametrize("pad", ["bucket", "30s"])
def test_every_way_to_pad_trains_with_the_same_plan(trainer: Any, tmp_path: Path, pad: str) -> None:
    run = tmp_path / "run"
    trainer(run, f"--data.pad={pad}", "--loop.max_steps=2", "--data.trailing_silence=0.9")
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    (_, padding) = [row["speed/encoder_padding"] for row in rows if "train/loss" in row]
    assert padding > 0.8 if pad == "30s" else padding < 1
    state = json.loads(
        (run / "checkpoints" / "step-00000002" / "state.json").read_text(encoding="utf-8")
    )
    assert (state["state"]["epoch"], state["state"]["update"]) == (0, 2)


@pytest.mark.parametrize("key", ["max_steps", "epochs", "eval_every", "patience"])
def test_values_that_could_not_work_are_refused(key: str) -> None:
    with pytest.raises(InputError, match=f"loop.{key}"):
        LoopConfig(**{key: 0})
