"""The better model is chosen by a paired test on the same clips, or in a tie by dev loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data.atomic_files import write_jsonl
from data.utterance import Utterance
from eval.metrics.hypothesis import Hypothesis
from eval.reference_loss import ReferenceLoss
from trainer.best_model import (
    MIN_LOSS_DIFFERENCE,
    UTTERANCES,
    compare,
    compare_with_best,
    write_losses,
)
from trainer.state import TrainState

CLIPS = 200


def evaluation(
    folder: Path, edits: Sequence[int | None], nll: float | None = 10.0, **more: Any
) -> Path:
    """Write the files of an evaluation of clips of ten words, with a number of edits for each."""
    same = {"units": 10, "seconds": 3.0, "speaker": None}
    rows = [{"id": str(n), "edits": each, **same, **more} for n, each in enumerate(edits)]
    write_jsonl(folder / UTTERANCES, rows)
    if nll is not None:
        clips = [Utterance(id=row["id"], audio="", text="") for row in rows]
        cost = ReferenceLoss(nll, 10)
        write_losses(folder, [Hypothesis(utterance=u, text="", reference_loss=cost) for u in clips])
    return folder


WORSE = [1] * CLIPS
BETTER = [0 if n % 4 == 0 else 1 for n in range(CLIPS)]
ALIKE = [(0, 2)[n % 2] if n < 20 else 1 for n in range(CLIPS)]  # ten better, ten worse


def test_what_the_paired_test_shows_decides_whatever_the_loss_says(tmp_path: Path) -> None:
    old = evaluation(tmp_path / "old", WORSE, nll=10.0)
    new = evaluation(tmp_path / "new", BETTER, nll=11.0)
    better, worse = compare(old, new), compare(new, old)
    assert better
    assert better.better
    assert better.reason.startswith("better, -2.50 points")
    assert worse
    assert not worse.better
    assert worse.reason.startswith("worse, +2.50 points")


@pytest.mark.parametrize(
    ("nll", "better"),
    [
        (9.0, True),
        (11.0, False),
        (10.0, False),
        (10.0 - 9 * MIN_LOSS_DIFFERENCE, False),
        (None, False),
    ],
)
def test_in_a_tie_the_lower_dev_loss_wins_and_the_older_model_a_tie_of_both(
    tmp_path: Path, nll: float | None, better: bool
) -> None:
    old = evaluation(tmp_path / "old", WORSE)
    verdict = compare(old, evaluation(tmp_path / "new", ALIKE, nll=nll))
    assert verdict
    assert verdict.better is better
    assert "no difference can be shown" in verdict.reason


def test_a_figure_that_is_lower_by_chance_is_no_better_model(tmp_path: Path) -> None:
    luck = [*ALIKE[:20], 0, *ALIKE[21:]]  # one word less of 2000
    old, new = evaluation(tmp_path / "old", WORSE), evaluation(tmp_path / "new", luck, nll=10.5)
    assert sum(luck) < sum(WORSE)
    assert not compare_with_best(
        old, new, sum(luck) / 2000, TrainState(best_error=sum(WORSE) / 2000)
    ).better


def test_only_clips_that_both_heard_are_compared(tmp_path: Path) -> None:
    old = evaluation(tmp_path / "old", WORSE)
    # as many more are far worse, and no part of the older one's clips
    new = evaluation(tmp_path / "new", [*BETTER, *[9] * CLIPS])
    verdict = compare(old, new)
    assert verdict
    assert verdict.better


def test_a_reference_that_was_normalised_otherwise_is_another_clip(tmp_path: Path) -> None:
    old = evaluation(tmp_path / "old", WORSE, units=12)
    assert compare(old, evaluation(tmp_path / "new", BETTER)) is None


def test_clips_without_a_reference_and_over_30_s_do_not_choose(tmp_path: Path) -> None:
    for name, edits, row in (("empty", [None], {"units": 0}), ("long", [1], {"seconds": 31.0})):
        old, new = (evaluation(tmp_path / name / each, edits, **row) for each in ("old", "new"))
        assert compare(old, new) is None


def test_the_first_one_is_the_best_so_far(tmp_path: Path) -> None:
    assert compare_with_best(tmp_path, tmp_path, 0.9, TrainState()).better


@pytest.mark.parametrize(("error", "better"), [(0.4, True), (0.5, False), (0.6, False)])
def test_where_the_texts_of_one_are_gone_the_bare_figures_decide(
    tmp_path: Path, error: float, better: bool
) -> None:
    new = evaluation(tmp_path / "step-00000009" / "dev", BETTER)
    old = tmp_path / "step-00000003" / "dev"
    verdict = compare_with_best(old, new, error, TrainState(best_error=0.5, best_step=3))
    assert verdict.better is better
    assert "no clips in common to compare" in verdict.reason
    assert ("update 3 stays" in verdict.reason) is not better


def test_one_clip_proves_nothing(tmp_path: Path) -> None:
    old, new = evaluation(tmp_path / "old", [5]), evaluation(tmp_path / "new", [0], nll=12.0)
    verdict = compare(old, new)
    assert verdict
    assert not verdict.better
