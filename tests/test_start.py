"""Facts about millions of rows are computed once at a start, not by every process."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import data.manifest
import data.sampling.bucketed_sampler
from data.audio.augment import AugmentConfig
from data.config import DataConfig
from data.manifest_index import index_path
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.utterance import Utterance


def noting(owner: Any, name: str) -> None:
    """Have a function leave a file named after itself and the rank that called it."""
    function = getattr(owner, name)

    def noted(*arguments: Any) -> Any:
        Path(f"{name}.{os.environ['RANK']}").touch()
        return function(*arguments)

    setattr(owner, name, noted)


def note_calls() -> None:
    """Note who counts the updates of a run, and who makes an index."""
    noting(Plan, "num_updates")
    noting(data.manifest, "build_index")


def test_the_main_process_alone_counts_updates_and_makes_a_missing_index(
    trainer: Any, tmp_path: Path, losses: Callable[[Path], dict[int, str]]
) -> None:
    run, whole = tmp_path / "run", trainer.reference(processes=2)  # of two epochs
    epochs = ("--loop.max_steps=None", "--optim.schedule=constant")
    trainer(run, *epochs, "--loop.epochs=1", processes=2)
    index = index_path(run / "manifest.jsonl")
    index.unlink()  # as in a run from before there was one
    trainer(run, *epochs, "--loop.epochs=2", "--resume=auto", processes=2, sabotage=note_calls)
    noted = sorted(path.name for path in tmp_path.glob("*.[01]"))
    assert noted == ["build_index.0", "num_updates.0"]
    assert index.exists()
    assert losses(run) == losses(whole)


@pytest.mark.parametrize(
    "config",
    [
        DataConfig(update_clips=16),
        DataConfig(trailing_silence=0.1, update_clips=16),
        DataConfig(update_clips=16, augment=AugmentConfig(speed=(0.9, 1.0, 1.1))),
    ],
)
def test_the_worst_pass_is_found_in_a_part_of_the_updates(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        Utterance(id=str(i), audio="", text="", seconds=1 + i % 97 / 4, tokens=5 + i % 31)
        for i in range(8000)
    ]
    plan = Plan.from_utterances(rows, config, seed=0)
    drawn: list[object] = []
    make_rows = data.sampling.bucketed_sampler.make_rows
    monkeypatch.setattr(
        data.sampling.bucketed_sampler,
        "make_rows",
        lambda *given: drawn.append(given) or make_rows(*given),
    )
    BucketedBatchSampler(plan, config, updates=0).largest()
    updates = len(plan.updates(0))
    assert updates >= 500
    assert len(drawn) < updates / 3
