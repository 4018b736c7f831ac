"""A run on a streamed dataset: every clip once per epoch, and exact resuming."""

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from data.atomic_files import read_jsonl
from tests.conftest import made_once
from tests.shards import BROKEN, ROWS, SHARDS, write_parquet, write_saved, write_tars

Losses = Callable[[Path], dict[int, str]]
WINDOWS = 3  # of an epoch: two of ten clips and one of seven, in five updates
EXACT = ("--model.dropout=0.1", "--checkpoint.save_every=1")
STREAM = ("--data.streaming=True", "--data.shuffle_buffer=10", "--loop.max_steps=8")


@pytest.fixture(scope="module")
def shards(shared: Path) -> Path:
    """Return a folder of parquet files with 27 clips."""
    return made_once(shared / "shards" / "mine", write_parquet)


def arguments(folder: Path, *extra: str) -> tuple[str, ...]:
    """Return a function that streams a folder; the last value of an option counts."""
    return ("--data.corpus", str(folder), *STREAM, *extra)


def note(into: Path) -> None:
    """Record each update's clips, and the stream's bytes on disk."""
    from trainer.heartbeat import Heartbeat

    begin = Heartbeat.begin_update

    def noted(self: Heartbeat, batches: Any, dropped: int) -> Any:
        spooled = list(into.parent.joinpath("run", "stream").rglob("*.tar"))
        row = {
            "at": list(batches[0].position),
            "ids": [each for batch in batches for each in batch.ids],
            "files": len(spooled),
        }
        with into.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return begin(self, batches, dropped)

    Heartbeat.begin_update = noted  # type: ignore[method-assign]  # in a process of its own


@pytest.mark.parametrize(
    "write", [write_parquet, write_tars, write_saved], ids=["parquet", "tar", "saved"]
)
def test_every_clip_is_trained_on_once_per_epoch_and_two_windows_are_on_disk(
    trainer: Any, tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    folder = write(tmp_path / "mine")
    run = tmp_path / "run"
    trainer(
        run,
        *arguments(folder, "--loop.max_steps=10", "--data.language=en"),
        sabotage=partial(note, tmp_path / "notes"),
    )
    rows = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    for epoch in range(2):
        windows = range(epoch * WINDOWS, (epoch + 1) * WINDOWS)
        heard = Counter(i for row in rows if row["at"][0] in windows for i in row["ids"])
        assert set(heard.values()) == {1}
        assert len(heard) == SHARDS * ROWS
    assert {row["files"] for row in rows} <= {1, 2}
    assert not (run / "stream").exists()


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(3, id="in a window"),
        pytest.param(4, id="at its end", marks=pytest.mark.slow),  # a run is killed there, below
        pytest.param(6, id="in a second epoch"),
    ],
)
def test_a_stopped_run_continues_exactly(
    trainer: Any, tmp_path: Path, losses: Losses, shards: Path, stop: int
) -> None:
    extra = arguments(shards, *EXACT)
    whole, cut = trainer.reference(*extra), tmp_path / "cut"
    trainer(cut, *extra, f"--loop.max_steps={stop}")
    trainer(cut, *extra, "--resume=auto")
    assert losses(cut) == losses(whole)
    weights, again = (load_file(run / "model" / "model.safetensors") for run in (whole, cut))
    assert all((weights[name] == again[name]).all() for name in weights)


def kill(at: int) -> None:
    """Die before an update as if the machine lost power."""
    from trainer.heartbeat import Heartbeat

    begin = Heartbeat.begin_update

    def deadly(self: Heartbeat, batches: Any, dropped: int) -> Any:
        if batches[0].position[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return begin(self, batches, dropped)

    Heartbeat.begin_update = deadly  # type: ignore[method-assign]  # in a process of its own


@pytest.mark.parametrize("forgotten", [False, True], ids=["", "without what it noted"])
def test_a_killed_run_continues_exactly_and_leaves_nothing_of_the_stream(
    trainer: Any, tmp_path: Path, losses: Losses, shards: Path, forgotten: bool
) -> None:
    extra = arguments(shards, *EXACT)
    whole, cut = trainer.reference(*extra), tmp_path / "cut"
    trainer(cut, *extra, sabotage=partial(kill, 3), check=False)
    assert (cut / "stream").exists()
    if forgotten:
        (cut / "stream.jsonl").unlink()
    trainer(cut, *extra, "--resume=auto")
    assert losses(cut) == losses(whole)
    assert not (cut / "stream").exists()


@pytest.mark.parametrize("fixed", [False, True])
def test_two_processes_train_as_one_does(
    trainer: Any, tmp_path: Path, losses: Losses, shards: Path, fixed: bool
) -> None:
    knobs = ("--optim.lr=1e-5", "--checkpoint.save_every=3", f"--data.fixed_shapes={fixed}")
    extra = arguments(shards, *knobs, "--loop.max_steps=6")
    one, two = tmp_path / "one", tmp_path / "two"
    trainer(one, *extra)
    trainer(two, *extra, "--loop.max_steps=3", processes=2)
    trainer(two, *extra, "--resume=auto", processes=2)
    for step, loss in losses(one).items():
        assert float.fromhex(losses(two)[step]) == pytest.approx(float.fromhex(loss), rel=1e-5)
    assert not (two / "stream").exists()


def test_broken_clips_are_left_out_and_each_is_named(trainer: Any, tmp_path: Path) -> None:
    broken = (2, 20)  # in the first window, and in a later one
    folder = write_parquet(tmp_path / "mine", dict.fromkeys(broken, BROKEN))
    run = tmp_path / "run"
    trainer(run, *arguments(folder, "--data.max_broken_share=0.2"))
    named = [row for row in read_jsonl(run / "drops.jsonl") if row["reason"] == "unreadable"]
    assert {each["id"] for each in named} == {
        f"mine/train/{clip // ROWS}-{clip % ROWS}" for clip in broken
    }


def test_a_stream_that_changed_is_refused(trainer: Any, tmp_path: Path, shards: Path) -> None:
    folder = shutil.copytree(shards, tmp_path / "mine")
    run = tmp_path / "run"
    extra = arguments(folder)
    trainer(run, *extra, "--loop.max_steps=6")
    write_parquet(folder, dict.fromkeys(range(SHARDS * ROWS), BROKEN))
    done = trainer(run, *extra, "--resume=auto", check=False)
    assert done.returncode == 2
    assert "had other clips" in done.output
    assert "Traceback" not in done.output


def test_another_window_is_another_order(trainer: Any, tmp_path: Path, shards: Path) -> None:
    extra = arguments(shards, *EXACT)
    run = shutil.copytree(trainer.reference(*extra), tmp_path / "run")
    done = trainer(run, *extra, "--data.shuffle_buffer=5", "--resume=auto", check=False)
    assert done.returncode == 2
    assert "data.shuffle_buffer" in done.output


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--loop.max_steps=None",), "loop.max_steps must be set with data.streaming"),
        (("--data.train_split=train+dev",), "one split of one corpus"),
        (("--data.weights", "1.0"), "leave them out, or set data.streaming=false"),
        (("--data.layout=common_voice",), "data.streaming reads datasets of the Hub"),
    ],
)
def test_what_a_stream_cannot_do_raises_an_input_error(
    trainer: Any, tmp_path: Path, shards: Path, extra: tuple[str, ...], message: str
) -> None:
    done = trainer(tmp_path / "run", *arguments(shards, *extra), check=False)
    assert done.returncode == 2
    assert message in done.output
    assert "Traceback" not in done.output
