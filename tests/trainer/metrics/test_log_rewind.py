"""A run that goes back to an update cuts its logs there, however long they are."""

import json
from pathlib import Path

import pytest
from accelerate import Accelerator

from data.atomic_files import read_jsonl, write_jsonl
from trainer.metrics.clip_losses import ClipLosses
from trainer.metrics.recorder import NullRecorder, Recorder


@pytest.mark.parametrize("kept", [0, 1, 3000, 5000])
def test_a_rewind_of_losses_parses_a_few_rows_of_thousands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    rows = [{"step": step, "ids": ["x" * (step % 7)]} for step in range(1, 5001)]
    write_jsonl(tmp_path / "losses.jsonl", rows)
    parsed: list[object] = []
    from_json = json.loads
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", lambda text: parsed.append(text) or from_json(text))
        ClipLosses(tmp_path, Accelerator(cpu=True), NullRecorder()).rewind(kept)
    assert list(read_jsonl(tmp_path / "losses.jsonl")) == rows[:kept]
    assert len(parsed) < 30


@pytest.mark.parametrize("kept", range(9))
def test_metrics_are_cut_also_where_the_end_recorded_the_best_update(
    tmp_path: Path, kept: int
) -> None:
    steps = [*range(9), 2, 2, 2, 8]
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": step} for step in steps])
    Recorder(tmp_path, Accelerator(cpu=True)).rewind(kept)
    left = [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert left == [step for step in steps if kept and step <= kept]


def test_metrics_that_a_full_disk_refused_are_rewound_as_well(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Accelerator(cpu=True))
    recorder.unwritten = [{"step": 3}, {"step": 7}]
    recorder.rewind(5)
    recorder.record(6, {"train/loss": 1.0})
    assert [row["step"] for row in read_jsonl(recorder.path)] == [3, 6]
