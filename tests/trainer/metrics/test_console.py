"""The verdict at a run's end: a paired test, and a warning where its clips are too few."""

import random
from pathlib import Path
from typing import Any

import pytest

from data.atomic_files import write_json, write_jsonl
from trainer.metrics.console import evaluation_folder, too_few_clips_warning, verdicts


def fill(run: Path, clips: int, edits: dict[int, float], **facts: Any) -> None:
    """Write evaluations of test by update: each word is wrong with a probability."""
    draw = random.Random(0)
    for step, share in edits.items():
        at = evaluation_folder(run, step, "test")
        rows = [
            {
                "id": str(n),
                "language": "en",
                "seconds": 3.0,
                "reference": "-",
                "hypothesis": "-",
                "reference_normalized": "-",
                "hypothesis_normalized": "-",
                "unit": "word",
                "units": 10,
                "edits": sum(draw.random() < share for _ in range(10)),
            }
            for n in range(clips)
        ]
        write_jsonl(at / "utterances.jsonl", rows)
        write_json(at / "scores.json", {"step": step, "true_length": False, **facts})


@pytest.mark.parametrize(
    ("clips", "after", "verdict", "warning"),
    [
        (9, 0.1, "better than before training", "9 test clips cannot tell models apart"),
        (9, 0.8, "no difference can be shown", "9 test clips cannot tell models apart"),
        (100, 0.1, "better than before training", ""),
        (100, 1.0, "worse than before training", ""),
        (200, 0.8, "no difference can be shown", ""),  # it would have shown a tenth
    ],
)
def test_a_verdict_is_given_and_few_clips_are_warned_of(
    tmp_path: Path, clips: int, after: float, verdict: str, warning: str
) -> None:
    fill(tmp_path, clips, {0: 0.8, 5: after})
    told, *more = verdicts(tmp_path, 5)
    assert told.startswith(f"test en: {verdict}: WER ")
    assert told.endswith(f"paired test of {clips} clips")
    assert bool(more) == bool(warning)
    assert not more or more[0].startswith(f"warning: {warning}")


def test_a_set_that_could_not_show_a_tenth_is_warned_of(tmp_path: Path) -> None:
    fill(tmp_path, 40, {0: 0.1, 5: 0.1})
    told, warning = verdicts(tmp_path, 5)
    assert "no difference can be shown" in told
    needed = int(warning.split("about ")[1].split(" ")[0].replace(",", ""))
    assert needed > 400  # half the interval is more than 3 points, and 1 is asked for
    fill(tmp_path / "larger", needed, {0: 0.1, 5: 0.1})
    assert len(verdicts(tmp_path / "larger", 5)) == 1


def test_what_was_decoded_differently_is_not_compared(tmp_path: Path) -> None:
    fill(tmp_path, 100, {5: 0.1}, true_length=True)
    assert verdicts(tmp_path, 5) == []  # update 0 is missing
    fill(tmp_path, 100, {0: 0.8})
    assert verdicts(tmp_path, 5) == []
    assert verdicts(tmp_path, 0) == []


@pytest.mark.parametrize(("clips", "warned"), [(7, True), (29, True), (30, False)])
def test_few_dev_clips_are_warned_of_at_the_start(clips: int, warned: bool) -> None:
    told = too_few_clips_warning("dev", clips)
    assert (told is not None) is warned
    assert told is None or told.startswith(f"{clips} dev clips cannot choose a best model: ")
