"""A wrong transcript stands out among clips alike, however short it is and whenever it is heard."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import InputError
from eval.label_errors.excess_loss import LOSSES, excess_losses, transcript_losses


def hearings(clips: int, epochs: int) -> tuple[Any, Any, Any, Any]:
    """Return clips, tokens, steps and losses that fall with length and with time."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 60, clips)
    order = np.concatenate([rng.permutation(clips) for _ in range(epochs)])
    steps = np.arange(len(order)) // 10
    level = 6 / np.sqrt(tokens[order]) + 2 * np.exp(-steps / 20)
    return order, tokens[order], steps, level * rng.lognormal(0, 0.15, len(order))


def test_a_clip_is_held_against_those_of_its_length_and_time() -> None:
    order, tokens, steps, losses = hearings(400, 3)
    wrong = np.isin(order, [3, 77, 200])
    losses[wrong] += 1.5
    excess = excess_losses(losses, tokens, steps)
    mean = np.bincount(order, excess) / 3
    assert set(np.argsort(-mean)[:3]) == {3, 77, 200}
    raw = np.bincount(order, losses) / 3
    assert set(np.argsort(-raw)[:3]) != {3, 77, 200}  # else nothing would be gained
    assert abs(np.corrcoef(tokens, excess)[0, 1]) < 0.1
    assert abs(np.corrcoef(steps, excess)[0, 1]) < 0.1
    assert 0.8 < np.percentile(np.abs(excess), 68) < 1.4  # a robust deviation


def test_losses_that_are_all_alike_are_no_error() -> None:
    same = np.ones(5)
    assert not excess_losses(same, np.full(5, 3), np.arange(5)).any()


def write(run: Path, rows: list[dict[str, Any]]) -> Path:
    """Write losses.jsonl."""
    run.mkdir(exist_ok=True)
    (run / LOSSES).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_clip_that_was_heard_often_has_one_figure(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "epoch": 0, "ids": ["a", "b"], "tokens": [2, 4], "nll": [4.0, 4.0]},
        {"step": 2, "epoch": 1, "ids": ["b", "a"], "tokens": [4, 2], "nll": [2.0, 2.0]},
    ]
    found = {cost.id: cost for cost in transcript_losses(write(tmp_path / "run", rows))}
    assert (found["a"].loss, found["b"].loss) == (1.5, 0.75)
    assert (found["a"].passes, found["b"].passes) == (2, 2)


def test_a_folder_without_losses_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name the folder of a run that has trained"):
        transcript_losses(tmp_path)
    with pytest.raises(InputError, match="has no clips yet"):
        transcript_losses(write(tmp_path / "run", []))
