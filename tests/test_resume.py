"""Six updates equal three, a resume, and three more, bit by bit."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.atomic_files import read_jsonl, write_json
from data.config import DataConfig
from data.config_parser import RENAMED
from data.errors import InputError
from eval.config import EvalConfig
from tests.interrupted import interrupted
from trainer.best_model import UTTERANCES
from trainer.checkpoint.fixed_knobs import evaluation_knobs, refuse_changed_knobs, training_knobs
from trainer.config import Config
from trainer.model import ModelConfig
from trainer.optimizer import OptimConfig
from trainer.resume import with_fixed_shapes

# 24 clips, 16 an update: an epoch is two updates, so its end lies on the way more than once
HARD = ("--data.update_clips=16", "--model.dropout=0.1", "--loop.max_steps=6")
Losses = Callable[[Path], dict[int, str]]


@pytest.mark.parametrize(
    ("processes", "workers"),
    [
        (1, 2),
        (2, 0),
        pytest.param(1, 0, marks=pytest.mark.slow),
        pytest.param(2, 2, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value),
)
def test_six_updates_equal_three_and_three(
    wide_trainer: Any, tmp_path: Path, losses: Losses, processes: int, workers: int
) -> None:
    extra = (*HARD, f"--data.workers={workers}")
    # without workers, which change no bits
    whole, cut = wide_trainer.reference(*HARD, processes=processes), tmp_path / "cut"
    wide_trainer(cut, *extra, "--loop.max_steps=3", processes=processes)
    assert list(losses(cut)) == [1, 2, 3]
    wide_trainer(cut, *extra, "--resume=auto", processes=processes)
    assert losses(cut) == losses(whole)
    weights, again = (load_file(run / "model" / "model.safetensors") for run in (whole, cut))
    assert all((weights[name] == again[name]).all() for name in weights)


@pytest.mark.parametrize("way", [("--data.pad=packed",), ("--data.trailing_silence=0.3",)])
def test_every_way_to_pad_resumes_exactly_and_on_two_processes(
    wide_trainer: Any, tmp_path: Path, losses: Losses, way: tuple[str, ...]
) -> None:
    extra = (*way, "--optim.lr=1e-5", "--loop.max_steps=4", "--checkpoint.save_every=2")
    whole = tmp_path / "whole"
    wide_trainer(whole, *extra)
    one, two = (interrupted(whole, tmp_path / name, after=2) for name in ("one", "two"))
    wide_trainer(one, *extra, "--resume=auto")
    assert losses(one) == losses(whole)
    wide_trainer(two, *extra, "--resume=auto", processes=2)
    assert_nearly_equal(losses(two), losses(whole))


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"]
)
def test_half_precision_resumes_exactly_and_trains_alike_on_two_processes(
    wide_trainer: Any, tmp_path: Path, losses: Losses, compiled: bool
) -> None:
    extra = ("--precision=bf16", "--loop.max_steps=4", "--checkpoint.save_every=2")
    extra += (f"--model.compile={compiled}",)
    dropout = (*extra, "--model.dropout=0.1")
    whole = tmp_path / "whole"
    wide_trainer(whole, *dropout)
    cut = interrupted(whole, tmp_path / "cut", after=2)
    wide_trainer(cut, *dropout, "--resume=auto")
    assert losses(cut) == losses(whole)
    weights, again = (load_file(run / "model" / "model.safetensors") for run in (whole, cut))
    assert all((weights[name] == again[name]).all() for name in weights)
    one, two = tmp_path / "one", tmp_path / "two"
    wide_trainer(one, *extra, "--optim.lr=1e-5")
    wide_trainer(two, *extra, "--optim.lr=1e-5", processes=2)
    for step, loss in losses(one).items():
        assert float.fromhex(losses(two)[step]) == pytest.approx(float.fromhex(loss), rel=2e-3)


def test_fixed_shapes_resume_exactly_on_any_processes_and_without_the_knob(
    wide_trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    on = "--data.fixed_shapes=True"
    extra = ("--data.update_clips=5", "--optim.lr=1e-5")
    whole = tmp_path / "whole"
    wide_trainer(whole, *extra, on)  # 24 clips an epoch: a row of silence fills the last update
    cut, two = (interrupted(whole, tmp_path / name, after=3) for name in ("cut", "two"))
    resumed = (*extra, "--resume=auto")
    refused = wide_trainer(cut, *resumed, "--data.fixed_shapes=False", check=False)
    assert refused.returncode == 2
    assert "data.fixed_shapes=True, now it is False" in refused.output
    wide_trainer(cut, *resumed)  # auto is what the checkpoint says
    assert losses(cut) == losses(whole)
    wide_trainer(two, *resumed, processes=2)
    assert_nearly_equal(losses(two), losses(whole))


def assert_nearly_equal(found: dict[int, str], expected: dict[int, str]) -> None:
    """Check that losses are equal up to the order of sums."""
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        assert float.fromhex(found[step]) == pytest.approx(float.fromhex(loss), rel=1e-5)


def note_ids(notes: Path) -> None:
    """Write the clips of each update on this process to a file."""
    from trainer.heartbeat import Heartbeat

    begin, rank = Heartbeat.begin_update, os.environ.get("RANK", "0")

    def noted(self: Heartbeat, batches: Any, dropped: int) -> Any:
        row = [list(batches[0].position), [each for batch in batches for each in batch.ids]]
        with (notes / rank).open("a") as file:
            file.write(json.dumps(row) + "\n")
        return begin(self, batches, dropped)

    Heartbeat.begin_update = noted  # type: ignore[method-assign]


def order(notes: Path, processes: int) -> list[Any]:
    """Return the clips of each update of a start, put together as they were dealt out."""
    ranks = [
        [json.loads(line) for line in (notes / str(rank)).read_text().splitlines()]
        for rank in range(processes)
    ]
    updates = []
    for shares in zip(*ranks, strict=True):
        dealt = zip_longest(*(ids for _, ids in shares))
        updates.append([shares[0][0], [each for row in dealt for each in row if each]])
    return updates


CHANGING = ("--optim.lr=1e-5", "--data.update_clips=16", "--data.max_seconds_per_forward=9")


@pytest.fixture(scope="module")
def alone(wide_trainer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Return a run on one process, and the clips of its updates."""
    folder = tmp_path_factory.mktemp("alone")
    steps = "--loop.max_steps=8"
    wide_trainer(folder / "run", *CHANGING, steps, sabotage=partial(note_ids, folder))
    return folder / "run", order(folder, 1)


def test_two_processes_train_as_one_does(
    wide_trainer: Any, tmp_path: Path, losses: Losses, alone: tuple[Path, list[Any]]
) -> None:
    two = tmp_path / "two"
    wide_trainer(two, *CHANGING, "--loop.max_steps=4", processes=2)
    first = {step: loss for step, loss in losses(alone[0]).items() if step <= 4}
    assert_nearly_equal(losses(two), first)


def test_a_run_changes_its_number_of_processes_on_the_way(
    wide_trainer: Any, tmp_path: Path, losses: Losses, alone: tuple[Path, list[Any]]
) -> None:
    changing, found = tmp_path / "changing", list[Any]()
    # until the middle of an epoch, which is two updates, but for the last
    for steps, processes in ((1, 1), (3, 2), (5, 4), (8, 1)):
        notes = tmp_path / f"{steps}"
        notes.mkdir()
        more = (*CHANGING, "--resume=auto", f"--loop.max_steps={steps}")
        sabotage = partial(note_ids, notes)
        wide_trainer(changing, *more, processes=processes, sabotage=sabotage)
        found += order(notes, processes)
    assert found == alone[1]
    assert_nearly_equal(losses(changing), losses(alone[0]))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_do_not_change_the_bits(
    wide_trainer: Any, tmp_path: Path, losses: Losses, workers: int
) -> None:
    run = tmp_path / "run"
    wide_trainer(run, *HARD, f"--data.workers={workers}", "--loop.max_steps=4")
    alone = losses(wide_trainer.reference(*HARD))
    assert losses(run) == {step: alone[step] for step in (1, 2, 3, 4)}


def test_auto_without_a_checkpoint_is_a_fresh_start(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    run = tmp_path / "run"
    trainer(run, "--resume=auto", "--loop.max_steps=2")
    assert list(losses(run)) == [1, 2]
    again = trainer(run, "--resume=auto", "--loop.max_steps=2")  # nothing is left to do
    assert list(losses(run)) == [1, 2]
    assert "resuming after update 2" in again.output


@pytest.fixture
def stopped(trainer: Any, tmp_path: Path) -> Path:
    """Return a run that ended after three updates."""
    return Path(shutil.copytree(trainer.reference(*DEV, THREE), tmp_path / "run"))


DEV = ("--data.dev_split=dev", "--loop.eval_every=3", "--eval.max_length=4")
THREE = "--loop.max_steps=3"


def test_a_run_that_exists_is_refused(trainer: Any, stopped: Path) -> None:
    status = (stopped / "status.json").read_text()
    done = trainer(stopped, check=False)
    assert done.returncode == 2
    assert "holds a run already" in done.output
    assert (stopped / "status.json").read_text() == status
    assert "Traceback" not in done.output


def test_an_older_checkpoint_rewinds_the_run(trainer: Any, tmp_path: Path, losses: Losses) -> None:
    run = tmp_path / "run"
    trainer(run, *DEV)
    first = losses(run)
    older = run / "checkpoints" / "step-00000003"
    done = trainer(run, *DEV, f"--resume={older}")
    assert "resuming after update 3" in done.output
    assert losses(run) == first
    facts = json.loads((run / "model" / "whisper_loop.json").read_text(encoding="utf-8"))
    state = json.loads(
        (run / "checkpoints" / "step-00000006" / "state.json").read_text(encoding="utf-8")
    )
    assert facts["step"] == state["state"]["best_step"]


def test_a_run_that_goes_on_chooses_the_same_best_on_any_processes(
    trainer: Any, tmp_path: Path
) -> None:
    looks = ("--data.dev_split=dev", "--loop.eval_every=1", "--loop.eval_clips=4")
    extra = (*looks, "--eval.max_length=4", "--loop.max_steps=4", "--checkpoint.save_every=2")
    whole = tmp_path / "whole"
    trainer(whole, *extra)
    cut, two = (interrupted(whole, tmp_path / name, after=2) for name in ("cut", "two"))
    trainer(cut, *extra, "--resume=auto")
    trainer(two, *extra, "--resume=auto", processes=2)
    states = [
        json.loads((run / "checkpoints" / "step-00000004" / "state.json").read_text())["state"]
        for run in (whole, cut, two)
    ]
    assert states[0] == states[1]
    assert states[0]["best_step"] == states[2]["best_step"]
    heard = [
        [row["id"] for row in read_jsonl(run / "eval" / f"step-0000000{step}" / "dev" / UTTERANCES)]
        for run in (whole, cut, two)
        for step in range(5)
    ]
    assert len(heard[0]) == 4
    assert all(ids == heard[0] for ids in heard)
    # and all of dev at the end, which the card tells of
    best = states[0]["best_step"]
    scores = json.loads(
        (whole / "eval" / f"step-{best:08d}" / "dev-all" / "scores.json").read_text()
    )
    assert sum(group["clips"] for group in scores["languages"].values()) == 6
    facts = json.loads((whole / "model" / "whisper_loop.json").read_text())
    assert (facts["step"], facts["error"]) == (best, scores["error"])
    rows = list(read_jsonl(whole / "metrics.jsonl"))
    assert [row["step"] for row in rows if "dev/loss" in row] == [0, 1, 2, 3, 4]
    assert 0 < rows[-1]["time/evaluation_share"] < 1


def test_a_knob_that_shapes_training_is_refused_at_resume_unless_accepted(
    trainer: Any, stopped: Path
) -> None:
    again = (*DEV, "--resume=auto", "--optim.lr=1e-4", "--loop.max_steps=4")
    done = trainer(stopped, *again, check=False)
    assert done.returncode == 2
    assert "optim.lr=0.001, now it is 0.0001" in done.output
    accepted = trainer(stopped, *again, "--accept", "optim.lr")
    assert "resuming after update 3" in accepted.output


def test_a_knob_that_figures_depend_on_is_refused_at_resume_unless_accepted(
    trainer: Any, stopped: Path
) -> None:
    again = (*DEV, "--resume=auto", "--eval.pad=30s", "--eval.audio=none", "--loop.max_steps=4")
    done = trainer(stopped, *again, check=False)
    assert done.returncode == 2
    assert "eval.pad=auto, now it is 30s" in done.output
    assert "the best model so far keeps the score that it got with auto" in done.output
    assert "resuming after update 3" in trainer(stopped, *again, "--accept", "eval.pad").output


def test_a_checkpoint_from_before_figures_were_compared_goes_on(tmp_path: Path) -> None:
    old = tmp_path / "step-00000003"
    old.mkdir()
    write_json(old / "state.json", {"shape": {"seed": 0}})
    refuse_changed_knobs(old, {"seed": 0} | evaluation_knobs(EvalConfig(num_beams=5)), ())
    write_json(old / "state.json", {"shape": {"seed": 0} | evaluation_knobs(EvalConfig())})
    with pytest.raises(InputError, match=r"eval\.num_beams=1, now it is 5"):
        refuse_changed_knobs(old, {"seed": 0} | evaluation_knobs(EvalConfig(num_beams=5)), ())


def test_a_checkpoint_with_old_names_of_knobs_is_compared_by_the_new_ones(tmp_path: Path) -> None:
    now = training_knobs(*KNOBS, steps=7) | evaluation_knobs(EvalConfig())
    before = {new: old for old, new in RENAMED.items()}
    saved = {before.get(key, key): value for key, value in now.items()}
    assert {"data.padding", "data.hours", "model.silence", "eval.unit"} <= saved.keys()
    assert not saved.keys() & before.keys()
    write_json(tmp_path / "state.json", {"shape": saved})
    refuse_changed_knobs(tmp_path, now, ())
    write_json(tmp_path / "state.json", {"shape": saved | {"data.padding": 0.5}})
    with pytest.raises(InputError, match=r"data\.max_padding=0\.5, now it is 0\.04"):
        refuse_changed_knobs(tmp_path, now, ())
    refuse_changed_knobs(tmp_path, now, ("data.max_padding",))


def test_a_checkpoint_that_names_a_removed_knob_goes_on_unless_it_did_something(
    tmp_path: Path,
) -> None:
    old = tmp_path / "step-00000003"
    old.mkdir()
    write_json(
        old / "state.json", {"shape": {"seed": 0, "data.repair": 0.0, "data.padded_share": 0.15}}
    )
    refuse_changed_knobs(old, {"seed": 0}, ())
    write_json(old / "state.json", {"shape": {"seed": 0, "data.repair": 0.25}})
    refuse_changed_knobs(old, {"seed": 0}, ("data.repair",))
    with pytest.raises(InputError, match=r"data\.repair=0\.25, a knob that was removed: start"):
        refuse_changed_knobs(old, {"seed": 0}, ())


def test_fixed_shapes_follow_the_device_unless_set_or_resumed(tmp_path: Path) -> None:
    def resolved(value: bool | None, device: str, saved: Path | None = None) -> bool | None:
        config = Config(data=DataConfig(fixed_shapes=value))
        return with_fixed_shapes(config, torch.device(device), saved).data.fixed_shapes

    assert [resolved(None, device) for device in ("cuda", "cpu")] == [True, False]
    assert [resolved(value, "cuda") for value in (True, False)] == [True, False]
    for saved, expected in ({"data.fixed_shapes": True}, True), ({}, False):
        write_json(tmp_path / "state.json", {"shape": {"seed": 0, **saved}})
        assert [resolved(None, device, tmp_path) for device in ("cuda", "cpu")] == [expected] * 2
        same, other = (
            {"seed": 0, "data.fixed_shapes": expected},
            {"seed": 0, "data.fixed_shapes": not expected},
        )
        refuse_changed_knobs(tmp_path, same, ())
        refuse_changed_knobs(tmp_path, other, ("data.fixed_shapes",))
        now = f"data.fixed_shapes={expected}, now it is {not expected}"
        with pytest.raises(InputError, match=now.replace(".", r"\.")):
            refuse_changed_knobs(tmp_path, other, ())


def test_what_changes_no_figure_may_change_between_starts() -> None:
    free = EvalConfig(batch_seconds=30, audio="none", embed_clips=3, non_speech=False)
    assert evaluation_knobs(free) == evaluation_knobs(EvalConfig())
    assert evaluation_knobs(EvalConfig(fallback=True)) != evaluation_knobs(EvalConfig())


KNOBS = ModelConfig(), OptimConfig(), DataConfig()


@pytest.mark.parametrize(
    ("free", "changed"),
    [
        (True, (replace(KNOBS[0], gradient_checkpointing=True), *KNOBS[1:])),
        (True, (*KNOBS[:2], replace(KNOBS[2], workers=9, prefetch=1, max_seconds_per_forward=1.0))),
        (False, (replace(KNOBS[0], dropout=0.5), *KNOBS[1:])),
        (False, (KNOBS[0], replace(KNOBS[1], weight_decay=0.5), KNOBS[2])),
        (False, (*KNOBS[:2], replace(KNOBS[2], pad="packed"))),
    ],
)
def test_what_a_resume_compares_is_what_weights_depend_on(free: bool, changed: Any) -> None:
    assert (training_knobs(*KNOBS, steps=7) == training_knobs(*changed, steps=7)) == free


def test_more_updates_are_no_change_where_the_learning_rate_does_not_depend_on_them() -> None:
    assert training_knobs(*KNOBS, steps=7) == training_knobs(*KNOBS, steps=8)
    cosine = (KNOBS[0], replace(KNOBS[1], schedule="cosine"), KNOBS[2])
    assert training_knobs(*cosine, steps=7) != training_knobs(*cosine, steps=8)
