"""A run that goes back to an update cuts its logs there, however long they are."""

import json
from pathlib import Path

import pytest
from accelerate import Accelerator

from data.files import read_jsonl, write_jsonl
from trainer.losses import ClipLosses
from trainer.recorder import Recorder, Silence


@pytest.mark.parametrize("kept", [0, 1, 3000, 5000])
@pytest.mark.parametrize("log", ["losses.jsonl", "metrics.jsonl"])
def test_a_rewind_parses_a_few_rows_of_thousands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, kept: int
) -> None:
    rows = [{"step": step, "ids": ["x" * (step % 7)]} for step in range(1, 5001)]
    write_jsonl(tmp_path / log, rows)
    parsed: list[object] = []
    from_json = json.loads
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", lambda text: parsed.append(text) or from_json(text))
        if log == "losses.jsonl":
            ClipLosses(tmp_path, Accelerator(cpu=True), Silence()).rewind(kept)
        else:
            Recorder(tmp_path, Accelerator(cpu=True)).rewind(kept)
    assert list(read_jsonl(tmp_path / log)) == rows[:kept]
    assert len(parsed) < 30


def test_metrics_that_a_full_disk_refused_are_rewound_as_well(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Accelerator(cpu=True))
    recorder.unwritten = [{"step": 3}, {"step": 7}]
    recorder.rewind(5)
    recorder.record(6, {"train/loss": 1.0})
    assert [row["step"] for row in read_jsonl(recorder.path)] == [3, 6]
