"""How evaluations of a run are decoded and printed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from rich.console import Console

from data.atomic_files import write_json
from data.config import DataConfig
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.report.console_tables import evaluation_table
from eval.report.figures import summaries
from trainer.metrics.recorder import NullRecorder
from trainer.metrics.wall_clock import WallClock
from trainer.publish.export import PublishConfig
from trainer.publish.uploader import HubUploader
from trainer.validation import Validation


def validation(folder: Path, *, data: str, pad: str = "auto", silence: bool = True) -> Validation:
    """Return the Validation of a run."""
    evaluator = Evaluator(
        accelerator=Accelerator(cpu=True),
        whisper=None,
        data=replace(DataConfig(), pad=data),
        config=EvalConfig(pad=pad),
        silence=silence,
    )
    return Validation(
        evaluator=evaluator,
        manifest=None,
        folder=folder,
        recorder=NullRecorder(),
        clock=WallClock(),
        eval_clips=None,
        uploader=HubUploader(folder, PublishConfig(), print),
    )


def saved(folder: Path, step: int, *, true_length: bool) -> None:
    """Write how dev was decoded after an update."""
    path = folder / "eval" / f"step-{step:08d}" / "dev" / "scores.json"
    write_json(path, {"step": step, "true_length": true_length})


@pytest.mark.parametrize(
    ("data", "pad", "silence", "dev", "test"),
    [
        ("bucket", "auto", True, True, False),
        ("bucket", "auto", False, False, False),  # at first it could not decode true lengths
        ("mixed", "auto", True, False, False),
        ("30s", "auto", True, False, False),
        ("bucket", "30s", True, False, False),
        ("30s", "bucket", False, True, True),
    ],
)
def test_a_split_is_decoded_alike_at_every_update(
    tmp_path: Path, data: str, pad: str, silence: bool, dev: bool, test: bool
) -> None:
    made = validation(tmp_path, data=data, pad=pad, silence=silence)
    for step in (0, 100, 200):  # what the run has written does not change it
        assert (
            made.decodes_at_true_length("dev"),
            made.decodes_at_true_length("dev-all"),
            made.decodes_at_true_length("test"),
        ) == (dev, dev, test)
        saved(tmp_path, step, true_length=dev)


def test_a_run_of_an_earlier_version_goes_on_as_it_has_decoded(tmp_path: Path) -> None:
    made = validation(tmp_path, data="bucket", silence=False)
    saved(tmp_path, 0, true_length=False)
    assert not made.decodes_at_true_length("dev")
    saved(tmp_path, 100, true_length=True)
    assert made.decodes_at_true_length("dev")
    assert not made.decodes_at_true_length("test")


def scores(rate: float, **facts: Any) -> dict[str, Any]:
    """Return a scores.json."""
    figure = {"rate": rate, "interval": [rate / 2, 2 * rate], "bootstrap": "utterances", "units": 9}
    group = {"clips": 12_345, "metric": "WER", "wer": figure}
    counts = {"clips": 12_345, "loops": 9_999, "fast": 12, "empty": 3, "truncated": 12_345}
    noise = {"clips": 12, "spoken": 0}
    return {
        "languages": {"en": group, "zh": group},
        "long": {"en": group},
        "corpora": {},
        "loss": 12.3456,
        "meters": {**counts, "noise": noise},
        **facts,
    }


def test_the_table_of_an_evaluation_is_legible_in_a_file_of_100_columns() -> None:
    rows = summaries("forgetting", scores(1.2345), scores(1.0))
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(evaluation_table(rows, "change: since update 0"))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 100
    headings = "split language clips error (95 % interval) change loss hallucinations"
    assert " ".join(lines[0].split()) == headings
    for text in ("WER 123.45 % (61.7 to 246.9)", "+23.45 points", "12,345", "12.3456"):
        assert text in lines[1]
    assert "no speech" in capture.get()


def test_a_change_is_of_one_decoding() -> None:
    first = scores(0.5, true_length=False)
    assert {row.change for row in summaries("dev", scores(0.4), first) if row.error} == {
        "-10.00 points"
    }
    later = scores(0.4, true_length=True)
    assert {row.change for row in summaries("dev", later, first)} == {""}
    assert {row.before for row in summaries("dev", later, first)} == {""}
