"""`python -m trainer plan` predicts a run without starting it; the run compares its speed."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.errors import InputError
from tests.forked import run_module
from trainer.commands.plan import PlanConfig, plan
from trainer.config import parse_as
from trainer.plan import plan_tables

HERE = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "2"}  # as the fixture's runs have it


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all GPUs."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def planned(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return run_module("trainer", "plan", *arguments, "--seconds=0.1", **HERE)


def read_plan(run: Path) -> dict[str, Any]:
    """Read the plan of a run."""
    text = (run.parent / ".plan" / f"{run.name}.json").read_text(encoding="utf-8")
    told: dict[str, Any] = json.loads(text)
    return told


def test_a_planned_run_starts_and_compares_its_speed_with_the_plan(
    trainer: Any, blank_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "mine"
    extra = (f"--model.name={blank_model}", "--data.update_clips=2")
    extra += ("--loop.max_steps=52", "--log.log_every=13")
    extra += ("--data.dev_split=dev", "--eval.max_length=4")
    done = planned(trainer.arguments(run, *extra))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in run.parent.iterdir()) == [".plan", ".scan"]
    told = read_plan(run)
    assert (told["updates"]["all"], told["updates"]["an_epoch"]) == (52, 12)
    assert told["speech"]["train"]["clips"] == 24
    assert told["seconds"]["scoring"]["after"] > 0
    assert "train 24 clips" in done.stdout
    assert f"{told['updates']['shapes']} distinct (rows, frames, tokens)" in done.stdout
    assert "started now, it ends at" in " ".join(done.stdout.split())
    ran = trainer(run, *extra)
    assert "after 52 updates: " in ran.output
    assert "clips/s; the plan said " in ran.output
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    padding = [row["speed/encoder_padding"] for row in rows if "train/loss" in row]
    assert told["updates"]["encoder_padding"] == pytest.approx(
        sum(padding) / len(padding), abs=0.02
    )


def test_a_run_with_other_knobs_is_not_compared_with_the_plan(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert planned(trainer.arguments(run)).returncode == 0
    done = trainer(run, "--data.update_clips=4", "--loop.max_steps=1")
    assert f"not compared with {tmp_path}/.plan/run.json: data.update_clips was 8" in done.output
    assert "the plan said" not in done.output


def test_broken_clips_are_rejected_and_listed_as_in_training(
    trainer: Any, copied: Path, tmp_path: Path
) -> None:
    for clip in sorted((copied / "clips").glob("*train*"))[:3]:
        clip.write_bytes(b"no audio")
    done = planned([*trainer.arguments(tmp_path / "run"), f"--data.corpus={copied}"])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    named_in = tmp_path / ".plan" / "run.drops.jsonl"
    assert "3 of 24 clips of train are broken, most of them (3) unreadable" in done.stderr
    assert f"listed in {named_in}" in done.stderr
    assert len(named_in.read_text(encoding="utf-8").splitlines()) == 3
    assert not (tmp_path / "run").exists()


def test_a_share_of_the_rows_takes_a_share_of_the_time(
    trainer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]

    def train_step(_: Any, batches: Any, **knobs: Any) -> None:
        now[0] += 1e-3 * sum(batch.features[:, 0].numel() for batch in batches)  # of its frames

    monkeypatch.setattr("trainer.plan.benchmark.train_step", train_step)
    monkeypatch.setattr("trainer.plan.benchmark.time", SimpleNamespace(perf_counter=lambda: now[0]))
    arguments = [*trainer.arguments(tmp_path / "run"), "--seconds=0.1", "--data.pad=30s"]
    plan(parse_as(PlanConfig, arguments))
    alone = read_plan(tmp_path / "run")
    plan(parse_as(PlanConfig, [*arguments, "--processes=4"]))
    shared = read_plan(tmp_path / "run")
    capsys.readouterr()
    assert [each["memory"]["lengths"][0]["rows"] for each in (alone, shared)] == [8, 2]
    assert alone["updates"]["clips"] == shared["updates"]["clips"] == 8
    assert shared["seconds"]["training"] < 0.6 * alone["seconds"]["training"]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (
            "trainer.plan.benchmark.train_step",
            r"largest pass holds .* s of padded audio: python -m trainer",
        ),
        ("eval.evaluate.transcribe", r"evaluation batch of 1 clip, .*: set precision=bf16"),
    ],
)
def test_out_of_memory_is_an_input_error(
    trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, told: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(place, full)
    arguments = [*trainer.arguments(tmp_path / "run"), "--data.dev_split=dev"]
    arguments += ["--eval.max_length=4", "--seconds=0.1"]
    with pytest.raises(InputError, match=f"out of memory .*{told}"):
        plan(parse_as(PlanConfig, arguments))


@pytest.mark.parametrize(("knob", "value"), [("processes", 0), ("seconds", 0.0)])
def test_invalid_values_are_rejected(knob: str, value: float) -> None:
    with pytest.raises(InputError, match=knob):
        PlanConfig(**{knob: value})  # type: ignore[arg-type]  # of any type


def test_warnings_name_a_remedy() -> None:
    fine: dict[str, Any] = {
        "updates": {"all": 100, "audio_seconds": 60.0},
        "seconds": {"training": 100.0},
        "audio_seconds_decoded_a_second": 1000.0,
        "memory": {"bytes": 8e9, "lengths": [{"bytes": 2e9}, {"bytes": 7e9}]},
        "disk": {"needed": 1e9, "free": 2e9},
    }
    assert plan_tables.warnings(fine) == []
    slow = {**fine, "audio_seconds_decoded_a_second": 60.0}
    small = {**fine, "memory": {**fine["memory"], "bytes": 6e9}}
    full = {**fine, "disk": {"needed": 3e9, "free": 2e9}}
    for told, remedy in (
        (slow, "raise data.workers"),
        (small, "set data.max_seconds_per_forward lower"),
        (full, "checkpoint.keep"),
    ):
        (warning,) = plan_tables.warnings(told)
        assert remedy in warning


def test_a_stream_is_not_planned(tmp_path: Path) -> None:
    arguments = ["--data.corpus=someone/something", "--data.streaming=True", "--loop.max_steps=9"]
    with pytest.raises(InputError, match=r"data\.streaming: .* with data\.streaming=false"):
        parse_as(PlanConfig, arguments)
