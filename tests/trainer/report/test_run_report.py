"""The report and the recorder: plain files, whole, with every text escaped."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from data.atomic_files import read_jsonl, write_json, write_jsonl
from data.config import DataConfig
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from trainer.metrics.console import comparison_table
from trainer.metrics.recorder import NullRecorder, Recorder
from trainer.metrics.train_metrics import LogConfig
from trainer.metrics.wall_clock import WallClock
from trainer.publish.export import PublishConfig
from trainer.publish.uploader import HubUploader
from trainer.report.plots import curve_points, write_plots
from trainer.report.run_report import write_report
from trainer.validation import Validation

NONE = LogConfig(trackers=())
FACTS = {
    "step": 3,
    "updates": 3,
    "base_model": "openai/whisper-tiny",
    "corpora": [{"name": "mine/en", "hub": False, "clips": 30, "hours": 1.5}],
    "clips": 30,
    "hours": 1.5,
    "seconds": 20.0,
    "since": 0,
    "shares": {"training_share": 1.0},
}
FIGURES = {"rate": 0.5, "substitutions": 1, "deletions": 0, "insertions": 0, "units": 2}


def utterance(name: str, text: str, edits: int) -> dict[str, Any]:
    """Return a row of utterances.jsonl."""
    return {
        "id": name,
        "language": "en",
        "seconds": 2.0,
        "reference": "<b>one</b>",
        "hypothesis": text,
        "reference_normalized": "one",
        "hypothesis_normalized": text,
        "unit": "word",
        "edits": edits,
        "units": 2,
    }


def fill(folder: Path) -> None:
    """Write what a short run leaves."""
    rows: list[dict[str, Any]] = [{"step": 0, "dev/error": 1.0}]
    rows += [{"step": 0, "test/error": 1.0}, {"step": 3, "test/error": 0.25}]
    rows += [
        {
            "step": step,
            "train/loss": 3.0 / step,
            "speed/audio_seconds_per_second": 100.0,
            "speed/data_wait": 0.01,
            "speed/encoder_padding": 0.05,
            "memory/peak_gb": 1.0,
        }
        for step in (1, 2, 3)
    ]
    write_jsonl(folder / "metrics.jsonl", rows)
    for step, rate in ((0, 1.0), (3, 0.25)):
        names = ("wer", "cer", "wer_ortho", "cer_ortho")
        group: dict[str, Any] = {name: FIGURES | {"rate": rate} for name in names}
        if step:
            group["wer"] |= {"interval": [0.2, 0.3], "bootstrap": "utterances"}
        group |= {"clips": 2, "metric": "WER", "normalizer": "none", "empty_references": 0}
        at = folder / "eval" / f"step-{step:08d}" / "test"
        write_json(
            at / "scores.json",
            {
                "step": step,
                "interval": [rate / 2, rate],
                "languages": {"en": group},
                "long": {},
                "corpora": {},
            },
        )
        rows = [utterance(name, f"heard {step}", int(2 * rate)) for name in ("a", "b")]
        write_jsonl(at / "utterances.jsonl", rows)


def test_the_report_shows_scores_and_texts_and_escapes_them(tmp_path: Path) -> None:
    fill(tmp_path)
    write_jsonl(tmp_path / "drops.jsonl", [{"split": "train", "reason": "too long"}] * 3)
    (tmp_path / "eval" / "step-00000003" / "test" / "report.html").touch()
    write_report(tmp_path, {})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;one" in page
    assert "<b>one" not in page
    assert "heard 0" in page
    assert "heard 3" in page
    assert "25.00 %" in page
    assert "too long" in page
    assert page.count('<a href="') == 1
    assert '<a href="eval/step-00000003/test/report.html">' in page
    namespaces = ("http-equiv", "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")
    for name in namespaces:
        page = page.replace(name, "")
    assert "http" not in page


def test_training_and_dev_loss_are_in_one_picture_with_legends_in_words(tmp_path: Path) -> None:
    fill(tmp_path)
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    write_jsonl(tmp_path / "metrics.jsonl", [*rows, {"step": 3, "dev/loss": 0.5}])
    write_report(tmp_path, {})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    pictures = page.split("<svg")[1:]
    (loss,) = (each for each in pictures if ">training loss</text>" in each)
    assert ">dev loss</text>" in loss
    (error,) = (each for each in pictures if ">dev word error rate</text>" in each)
    assert ">test word error rate</text>" in error
    assert "dev/error" not in page


def test_the_report_begins_with_the_result_and_its_verdict(tmp_path: Path) -> None:
    fill(tmp_path)
    write_report(tmp_path, FACTS)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index("100.00 % → 25.00 %") < page.index("<svg")
    assert page.index("2 test clips cannot tell models apart") < page.index("<svg")
    for told in ("openai/whisper-tiny", "mine/en", "1.50 h, 30 clips", "20 s for updates 0 to 3"):
        assert told in page


def test_the_report_counts_hallucinations_and_forgetting(tmp_path: Path) -> None:
    fill(tmp_path)
    noise = {"clips": 12, "spoken": 5, "characters": 9, "texts": {}}
    counts = {"clips": 2, "loops": 1, "fast": 0, "empty": 0, "truncated": 7, "noise": noise}
    for split, facts in {"test": {"meters": counts}, "forgetting": {}}.items():
        path = tmp_path / "eval" / "step-00000003" / "test" / "scores.json"
        saved = json.loads(path.read_text(encoding="utf-8"))
        write_json(path.parent.with_name(split) / "scores.json", saved | facts)
    write_report(tmp_path, {})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<tr><td class="n">3<td>test' in page.split("<h2>Hallucinations")[1]
    assert '<td class="n">7<td class="n">5 of 12' in page
    assert "25.00 %" in page.split("<h2>Forgetting")[1]


def test_pictures_of_the_curves_are_drawn(tmp_path: Path) -> None:
    fill(tmp_path)
    write_plots(tmp_path)
    drawn = {"loss.png", "error.png", "speed.png", "share.png"}
    assert {p.name for p in (tmp_path / "plots").iterdir()} == drawn


def test_a_long_run_is_thinned_and_keeps_its_ends(tmp_path: Path) -> None:
    rows = [{"step": step, "train/loss": 1.0} for step in range(1, 10_001)]
    points = curve_points(tmp_path, rows, "train/loss", "")
    assert len(points) < 2_100
    assert (points[0][0], points[-1][0]) == (1, 10_000)


def test_a_run_without_evaluations_has_a_report_too(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", [])
    write_report(tmp_path, {})
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert comparison_table(tmp_path, 4).row_count == 0


def test_the_table_at_the_end_compares_the_first_with_the_chosen_one(tmp_path: Path) -> None:
    fill(tmp_path)
    earlier = tmp_path / "eval" / "step-00000009"  # of an earlier end of the run
    shutil.copytree(tmp_path / "eval" / "step-00000000", earlier)
    table = comparison_table(tmp_path, 3)
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells[:3] == ["en", "2", "WER"]
    assert cells[3] == "100.00 %"
    assert "25.00 %\n(20.0 to 30.0)" in str(cells[4])


def test_a_page_that_cannot_be_made_ends_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    path = tmp_path / "eval" / "step-00000003" / "test" / "utterances.jsonl"
    write_jsonl(path, [{"id": "a", "reference": "one"}])  # as an earlier version wrote it
    accelerator = Accelerator(cpu=True)
    evaluator = Evaluator(
        accelerator=accelerator, whisper=None, data=DataConfig(), config=EvalConfig()
    )
    recorder = Recorder(tmp_path, accelerator)
    validation = Validation(
        evaluator=evaluator,
        manifest=None,
        folder=tmp_path,
        recorder=recorder,
        clock=WallClock(),
        eval_clips=None,
        uploader=HubUploader(tmp_path, PublishConfig(), print),
    )
    at = tmp_path / "eval" / "step-00000003" / "test"
    validation._write_page(at, "test", 3)
    assert "WARNING: no page of" in capsys.readouterr().out
    assert not (at / "report.html").exists()


def test_lines_after_the_checkpoint_are_cut_off_at_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(
        tmp_path / "metrics.jsonl", [{"step": step, "train/loss": 1.0} for step in range(6)]
    )
    recorder = Recorder(tmp_path, Accelerator(cpu=True))
    recorder.begin(NONE, {}, step=3, steps=10)
    with recorder:
        recorder.record(4, {"train/loss": 0.5, "train/lr": 1e-5})
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[-1]["train/loss"] == 0.5
    assert "loss 0.5000  lr 1.00e-05" in capsys.readouterr().out


def test_one_display_shows_training_and_the_evaluation(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Accelerator(cpu=True))
    recorder.begin(NONE, {}, step=0, steps=10)
    seen = []
    with recorder:
        for number in recorder.track(range(3), "dev, update 0"):
            training, evaluation = recorder.progress.tasks
            seen.append((number, training.total, evaluation.completed, evaluation.total))
        assert len(recorder.progress.tasks) == 1
        rounds = recorder.track(range(3), "test, update 0")
        next(rounds)
        rounds.close()  # as where an evaluation is stopped
        assert len(recorder.progress.tasks) == 1
    assert seen == [(0, 10, 0, 3), (1, 10, 1, 3), (2, 10, 2, 3)]
    assert list(NullRecorder().track(range(3), "")) == [0, 1, 2]


def test_a_fresh_start_begins_with_an_empty_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 0, "dev/error": 1.0}])
    Recorder(tmp_path, Accelerator(cpu=True)).begin(NONE, {}, step=0, steps=10)
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == ""


def test_tensorboard_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, updates in ((0, (1, 2, 3, 4)), (2, (3,))):
        accelerator = Accelerator(cpu=True)
        recorder = Recorder(tmp_path, accelerator)
        recorder.begin(LogConfig(), {}, step=start, steps=10)
        for update in updates:
            recorder.record(update, {"train/loss": float(10 * start + update)})
        accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 23.0),
    ]


def test_the_other_processes_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with NullRecorder() as silence:
        silence.begin(NONE, {}, step=0, steps=1)
        silence.advance(1)
        silence.record(1, {"train/loss": 1.0})
        silence.print("nothing")
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
