"""LazyUtterances equal the utterances that were written, in any process."""

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from data.config import DataConfig
from data.lazy_manifest import LazyUtterances, ManifestColumns
from data.manifest import Manifest
from data.sampling.epoch_plan import Plan
from data.utterance import Utterance


def said(number: int) -> Utterance:
    """Return an utterance with unique values."""
    return Utterance(
        id=f"{number}",
        audio=f"/{number}.wav",
        text="嗨 " * (number % 5),
        seconds=1 + number / 7,
        language=("en", "zh", None)[number % 3],
        speaker="s" if number % 2 else None,
        tokens=number,
        rules=("lower case",) if number % 4 else (),
    )


ROWS = [said(number) for number in range(50)]


@pytest.fixture
def lazy(tmp_path: Path) -> LazyUtterances:
    """Return ROWS, from a file that has other splits too."""
    path = tmp_path / "manifest.jsonl"
    Manifest(train=ROWS, dev=[said(60)], test=[said(61)]).write(path)
    train = Manifest.read(path).train
    assert isinstance(train, LazyUtterances)
    return train


def test_rows_come_back_one_by_one_and_in_slices(lazy: LazyUtterances) -> None:
    assert len(lazy) == 50
    assert list(lazy) == ROWS
    assert lazy[7] == ROWS[7]
    assert lazy[-1] == ROWS[-1]
    assert lazy[40:10:-3] == ROWS[40:10:-3]
    with pytest.raises(IndexError):
        lazy[50]


def test_columns_are_those_of_the_rows(lazy: LazyUtterances) -> None:
    mine, theirs = ManifestColumns.from_utterances(lazy), ManifestColumns.from_utterances(ROWS)
    assert mine is lazy.columns
    for name in ("seconds", "tokens", "prompts", "kind"):
        assert getattr(mine, name).tolist() == getattr(theirs, name).tolist()
    assert mine.kinds == theirs.kinds
    assert mine.fingerprint == theirs.fingerprint
    assert mine.hours == pytest.approx(sum(u.seconds for u in ROWS) / 3600)


def test_a_plan_of_them_is_that_of_the_rows(lazy: LazyUtterances) -> None:
    plans = [Plan.from_utterances(rows, DataConfig(), seed=5) for rows in (lazy, ROWS)]
    assert list(plans[0].updates(2)) == list(plans[1].updates(2))


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_read_them_however_they_are_started(
    lazy: LazyUtterances, start: str, workers: int
) -> None:
    loader = DataLoader(
        lazy, batch_size=20, collate_fn=list, num_workers=workers, multiprocessing_context=start
    )
    assert [u for batch in loader for u in batch] == ROWS
