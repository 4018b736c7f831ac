"""Windows of a stream: screened, and on disk while they are trained on."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from data.audio.decode import load_audio
from data.config import DataConfig
from data.errors import InputError
from data.labels import LabelEncoder
from data.streaming.prefetch_windows import Windows, first_window, screen_window
from data.streaming.stream import Stream, StreamPosition
from data.streaming.window_log import WindowLog
from eval.whisper import load_whisper
from tests.shards import BROKEN, ROWS, SHARDS, seconds_of, write_parquet

SIZE = 10
Opened = Callable[..., Windows]


@pytest.fixture(scope="module")
def label_encoder(blank_model: Path) -> LabelEncoder:
    """Return a LabelEncoder."""
    return load_whisper(str(blank_model)).labels()


@pytest.fixture
def opened(label_encoder: LabelEncoder, tmp_path: Path) -> Opened:
    """Return a function that opens a folder's windows."""

    def windows(folder: Path, **knobs: Any) -> Windows:
        config = DataConfig(corpus=(str(folder),), streaming=True, workers=0, **knobs)
        screened = partial(screen_window, config=config, labels=label_encoder, held_out=[])
        places = WindowLog(tmp_path / "stream.jsonl")
        return Windows(Stream(config, 0, None), SIZE, screened, tmp_path / "audio", places)

    return windows


def numbers(windows: Windows, window: int) -> list[int]:
    """Return the clips of a window."""
    found = []
    for u in windows.load(window).utterances:
        shard, row = map(int, u.id.removeprefix("mine/train/").split("-"))
        found.append(shard * ROWS + row)
    return found


def test_an_epoch_of_the_stream_ends_with_a_short_window(tmp_path: Path, opened: Opened) -> None:
    windows = opened(write_parquet(tmp_path / "mine"))
    held = [numbers(windows, number) for number in range(6)]
    assert [len(each) for each in held] == [10, 10, 7, 10, 10, 7]
    for epoch in (held[:3], held[3:]):
        assert sorted(chain(*epoch)) == list(range(SHARDS * ROWS))
    windows.close()


def test_a_window_returns_the_streams_audio_unchanged(tmp_path: Path, opened: Opened) -> None:
    windows = opened(write_parquet(tmp_path / "mine"))
    for number, u in zip(numbers(windows, 1), windows.load(1).utterances, strict=True):
        assert u.seconds == pytest.approx(seconds_of(number), abs=1e-3)
        assert len(load_audio(u)) == pytest.approx(16_000 * seconds_of(number), abs=16)
    windows.close()


def test_only_a_window_and_the_one_read_ahead_lie_on_disk(tmp_path: Path, opened: Opened) -> None:
    windows = opened(write_parquet(tmp_path / "mine"))
    for number in (0, 1, 4, 2):
        windows.load(number)
        windows.prefetch(number + 1)
        windows.prefetch(number + 2)  # what is not wanted any more is given up
        windows.load(number)
        left = {path.name for path in (tmp_path / "audio").iterdir()}
        assert left <= {f"{number:08d}.tar", f"{number + 2:08d}.tar"}
    windows.close()
    assert not (tmp_path / "audio").exists()


def test_a_window_is_the_same_from_wherever_it_is_reached(tmp_path: Path, opened: Opened) -> None:
    folder = write_parquet(tmp_path / "mine")
    windows = opened(folder)
    walked = [numbers(windows, number) for number in range(5)]
    windows.close()
    for number in (4, 1, 3):
        windows = opened(folder)  # with what was noted
        assert numbers(windows, number) == walked[number]
        windows.close()
    (tmp_path / "stream.jsonl").unlink()
    windows = opened(folder)
    assert numbers(windows, 4) == walked[4]
    windows.close()


def test_what_is_broken_is_named_by_its_row_not_by_a_file_that_will_be_gone(
    tmp_path: Path, opened: Opened
) -> None:
    windows = opened(write_parquet(tmp_path / "mine", {4: BROKEN, 5: None}))
    drops = [drop for number in range(3) for drop in windows.load(number).drops]
    assert {(drop.id, drop.audio) for drop in drops} == {
        (f"mine/train/0-{row}", f"mine/train/0-{row}") for row in (4, 5)
    }
    windows.close()


def test_a_window_that_held_other_clips_before_raises_an_input_error(
    tmp_path: Path, opened: Opened
) -> None:
    folder = write_parquet(tmp_path / "mine")
    windows = opened(folder)
    windows.load(0)
    windows.close()
    windows = opened(write_parquet(folder, {0: BROKEN, 9: BROKEN, 18: BROKEN}))
    with pytest.raises(InputError, match="window 0 of the stream had other clips"):
        windows.load(0)
    windows.close()


def test_a_damaged_note_costs_time_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "stream.jsonl"
    places = WindowLog(path)
    places.record(0, StreamPosition(0, 1, 2), "aa")
    places.record(1, StreamPosition(0, 2, 3), "bb")
    assert WindowLog(path).nearest(7) == (2, StreamPosition(0, 2, 3))
    path.write_text('{"window": 0, "fing\n{"window": 1}\n')
    assert WindowLog(path).nearest(7) == (0, StreamPosition())


def test_every_window_is_noted_by_the_first_process_alone(tmp_path: Path) -> None:
    path = tmp_path / "stream.jsonl"
    for rank in (1, 0, 2):
        places = WindowLog(path, rank=rank)
        for number in range(4):
            places.record(number, StreamPosition(0, number + 1, 0), f"{number}")
        assert path.exists() == (rank != 1)
    assert [path.read_text().count(f'"window": {number}') for number in range(4)] == [1] * 4


def test_the_first_window_is_read_for_the_manifest_and_leaves_nothing(
    tmp_path: Path, label_encoder: LabelEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_parquet(tmp_path / "mine")
    config = DataConfig(corpus=(str(folder),), streaming=True, shuffle_buffer=SIZE, workers=0)
    window = first_window(config, label_encoder, [], tmp_path / "runs", seed=0, show=True)
    assert len(window.utterances) == SIZE
    assert list((tmp_path / "runs").iterdir()) == []
    assert f"reading {SIZE} clips of {folder} …" in capsys.readouterr().out
