"""Non-finite updates change no weight on any process; after too many in a row they are skipped."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from data.batch import Position
from data.errors import InputError
from trainer.distributed.engine import Engine
from trainer.metrics.recorder import JsonlLog, NullRecorder
from trainer.nonfinite import (
    INITIAL_SCALE,
    MAX_ROLLBACKS,
    NonFiniteGuard,
    exclude_failed_updates,
    refuse_more_rollbacks,
)
from trainer.state import TrainState
from trainer.step import StepResult, train_step

Losses = Callable[[Path], dict[int, str]]
BAD = "en/common_voice_en_train_007.mp3"


def result(finite: bool) -> StepResult:
    """Return the result of an update."""
    nothing = torch.zeros(())
    return StepResult(loss=nothing, nll=[], grad_norm=nothing, finite=torch.tensor(finite))


def batch(update: int) -> Any:
    """Return the parts of a batch that a guard reads."""
    return SimpleNamespace(ids=["a"], position=Position(0, update))


def guarded(tmp_path: Path, scale: float | None = None, patience: int = 2) -> NonFiniteGuard:
    """Return a guard; with a scale, one that has a loss scaler."""
    scaler = None
    if scale is not None:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(torch.ones(()))  # it begins with the first loss
    accelerator: Any = SimpleNamespace(scaler=scaler, process_index=0, is_main_process=True)
    return NonFiniteGuard(
        accelerator, JsonlLog(tmp_path / "nonfinite.jsonl", NullRecorder()), patience
    )


def test_updates_that_failed_are_counted_and_named_one_later(tmp_path: Path) -> None:
    guard, state = guarded(tmp_path), TrainState()
    outcomes = [True, False, True, False, False, True]
    full = [guard.check(state, [batch(i)], result(finite)) for i, finite in enumerate(outcomes)]
    assert full == [False, False, False, False, False, True]
    assert state.skipped == 3
    assert state.failed == [[0, 3], [0, 4]]
    rows = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [1, 3, 4]
    assert rows[0]["ids"] == ["a"]


def test_the_search_for_the_first_scale_is_exempt(tmp_path: Path) -> None:
    guard, state = guarded(tmp_path, scale=1024.0), TrainState()
    for i, finite in enumerate([False] * 6 + [True, False]):
        guard.check(state, [batch(i)], result(finite))
    guard.read_outcome(state)
    assert state.skipped == 1
    assert state.failed == [[0, 7]]


def test_a_collapsed_scale_stops_with_a_sentence(tmp_path: Path) -> None:
    guard = guarded(tmp_path, scale=1e-6)
    guard.check(TrainState(), [batch(0)], result(False))
    with pytest.raises(InputError, match=r"loss scale fell to 1\.0e-06"):
        guard.read_outcome(TrainState())
    assert guard._scaler.get_scale() == INITIAL_SCALE  # a checkpoint saved now starts with it


def test_a_run_does_not_roll_back_for_ever() -> None:
    state, saved = TrainState(step=9, failed=[[0, 7], [0, 8]], skipped=2), TrainState(step=4)
    exclude_failed_updates(state, saved)
    assert saved.passed_over == [[0, 7], [0, 8]]
    assert (saved.step, saved.skipped, saved.failed, saved.rollbacks) == (4, 2, [], 1)
    refuse_more_rollbacks(state)
    state.rollbacks = MAX_ROLLBACKS
    with pytest.raises(InputError, match="after 3 rollbacks"):
        refuse_more_rollbacks(state)
    assert state.failed == []  # a start that goes on counts anew


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_moves_nothing_even_where_its_gradient_is_one(bad: float) -> None:
    accelerator = Accelerator(cpu=True)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, features: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            return self.weight.sum() + features

    model = Model()
    prepared, optimizer = accelerator.prepare(
        model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    )
    engine, moments = Engine(accelerator, prepared, optimizer), []
    for value in (1.0, bad, 1.0):
        update: Any = SimpleNamespace(
            features=torch.tensor(value),
            decoder_input_ids=None,
            labels=None,
            targets=None,
            is_last=True,
            to=lambda _: None,
        )
        before = model.weight.detach().clone()
        made = train_step(engine, [update], tokens=1, max_norm=1.0)
        assert bool(made.finite) == (value == 1.0)
        assert torch.equal(model.weight, before) != (value == 1.0)
        moments.append(float(optimizer.state_dict()["state"][0]["step"]))
    assert moments == [1.0, 1.0, 2.0]


def poison() -> None:
    """Make one clip's features NaN."""
    from data.batching.collate import PaddingCollator

    collate = PaddingCollator.__call__

    def poisoned(self: PaddingCollator, clips: Any) -> Any:
        batch = collate(self, clips)
        if BAD in batch.ids:
            batch.features[batch.ids.index(BAD)] = torch.nan
        return batch

    PaddingCollator.__call__ = poisoned  # type: ignore[method-assign]


def poison_one_mount() -> None:
    """Make it NaN where the lines that a second machine appends are lost."""
    import trainer.nonfinite

    poison()
    if os.environ.get("RANK", "0") != "0":
        trainer.nonfinite.append_jsonl = lambda *_: None


def poison_weights() -> None:
    """Make the third update of a start leave NaN in the weights, as a broken memory would."""
    import trainer.step

    made, count = trainer.step.train_step, [0]

    def breaks(engine: Any, *rest: Any, **more: Any) -> Any:
        done = made(engine, *rest, **more)
        count[0] += 1
        if count[0] == 5:
            with torch.no_grad():
                next(engine.model.parameters()).fill_(torch.nan)
        return done

    import trainer.loop

    trainer.loop.train_step = breaks


@pytest.mark.parametrize("processes", [1, 2])
def test_a_clip_of_nan_on_one_process_makes_all_skip_its_update(
    trainer: Any, tmp_path: Path, losses: Losses, processes: int
) -> None:
    run = tmp_path / "run"
    trainer(run, "--loop.max_steps=6", sabotage=poison_one_mount, processes=processes)
    rows = [json.loads(line) for line in (run / "nonfinite.jsonl").read_text().splitlines()]
    assert sum(BAD in row["ids"] for row in rows) == 2  # in each of two epochs
    assert len(rows) == 2 * processes
    state = json.loads((run / "checkpoints/step-00000006/state.json").read_text())["state"]
    assert state["skipped"] == 2
    weights = load_file(run / "model" / "model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())
    skipped = [(row["epoch"] * 3 + row["update"]) + 1 for row in rows]
    assert {step for step, loss in losses(run).items() if float.fromhex(loss) == 0} == set(skipped)


def test_a_skipped_update_leaves_the_weights_as_they_were(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    extra = ("--checkpoint.save_every=1", "--checkpoint.keep=9")
    trainer(run, *extra, sabotage=poison)  # in both epochs: the first time may be too early
    row = json.loads((run / "nonfinite.jsonl").read_text().splitlines()[-1])
    step = row["epoch"] * 3 + row["update"] + 1
    before, after = (
        load_file(run / f"checkpoints/step-{number:08d}/model.safetensors")
        for number in (step - 1, step)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_broken_weights_are_rolled_back_and_the_window_is_passed_over_for_good(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    run = tmp_path / "run"
    extra = ("--loop.max_nonfinite_steps=2", "--checkpoint.save_every=4")
    done = trainer(run, *extra, "--loop.max_steps=8", sabotage=poison_weights)
    assert "returned to update 4" in done.output
    state = json.loads((run / "checkpoints/step-00000008/state.json").read_text())["state"]
    assert state["rollbacks"] == 1
    assert state["passed_over"] == [[1, 2], [2, 0]]  # the sixth and the seventh update
    assert sorted(losses(run)) == list(range(1, 9))
    trainer(run, *extra, "--loop.max_steps=10", "--resume=auto")
    state = json.loads((run / "checkpoints/step-00000010/state.json").read_text())["state"]
    assert state["passed_over"] == [[1, 2], [2, 0]]


def poison_every_clip() -> None:
    """Make all features NaN in training, not in an evaluation."""
    from data.batching.collate import PaddingCollator

    collate = PaddingCollator.__call__

    def poisoned(self: PaddingCollator, clips: Any) -> Any:
        batch = collate(self, clips)
        if "_train_" in batch.ids[0]:
            batch.features.fill_(torch.nan)
        return batch

    PaddingCollator.__call__ = poisoned  # type: ignore[method-assign]


def test_a_run_whose_last_update_is_rolled_back_before_any_checkpoint_is_still_evaluated(
    trainer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    extra = ("--data.dev_split=dev", "--loop.max_nonfinite_steps=3", "--checkpoint.save_every=9")
    # what an update came to is read after the next one
    done = trainer(run, *extra, "--loop.max_steps=4", sabotage=poison_every_clip)
    assert "no checkpoint yet, so training continues at update 4" in done.output
    assert (run / "eval" / "step-00000004" / "dev" / "scores.json").is_file()
    assert (run / "model" / "model.safetensors").is_file()


def test_where_an_error_ends_training_no_other_process_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.nonfinite.gather_object", lambda _: pytest.fail("would wait"))
    guard, state = guarded(tmp_path), TrainState()
    guard.check(state, [batch(3)], result(False))
    guard.read_outcome_alone(state)
    assert state.failed == [[0, 3]]
    assert json.loads((tmp_path / "nonfinite.jsonl").read_text())["update"] == 3
