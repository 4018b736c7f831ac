"""The scan before training is shared by all processes, has no time limit, and never restarts."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from data.screening import durations as scanning
from data.screening import scan_cache as measurements
from data.screening.durations import measure
from data.screening.scan_cache import Measurement
from trainer.distributed import ended_processes as liveness
from trainer.distributed import shared_scan

TIMEOUT = 6.0  # seconds that a collective waits
SPLITS = ("--data.dev_split=dev", "--data.test_split=test")


def watch(
    notes: Path,
    seconds: float = 0.0,
    die_at: dict[str, int] | None = None,
    fail_at: dict[str, int] | None = None,
) -> None:
    """Let collectives time out soon, note each clip that is measured, and measure it slowly.

    Args:
        notes: a folder, with a file for each process.
        seconds: that each clip takes.
        die_at: by rank, the clip at which the process is killed.
        fail_at: by rank, the clip at which the process fails with an error.
    """
    notes.mkdir(exist_ok=True)
    rank, start = os.environ.get("RANK", "0"), torch.distributed.init_process_group
    limit = timedelta(seconds=TIMEOUT)
    torch.distributed.init_process_group = lambda *a, **k: start(*a, **{**k, "timeout": limit})
    measurements.FLUSH_SECONDS = 0.0
    liveness.HEARTBEAT_SECONDS = 0.2
    liveness.TIMEOUT_SECONDS = 2.0
    begun = 0

    def noted(audio: str, check: str) -> Measurement:
        nonlocal begun
        if begun == (die_at or {}).get(rank):
            os.kill(os.getpid(), signal.SIGKILL)
        if begun == (fail_at or {}).get(rank):
            raise KeyError("of a fault in the program")
        begun += 1
        time.sleep(seconds)
        measured = measure(audio, check)
        with (notes / rank).open("a") as file:
            file.write(f"{audio}\n")
        return measured

    scanning.measure = noted


def noted(notes: Path) -> dict[str, list[str]]:
    """Return the clips that each process measured."""
    return {path.name: path.read_text().split() for path in sorted(notes.iterdir())}


def left_over(run: Path) -> list[str]:
    """Return the files of a scan other than its cache."""
    return [path.name for path in (run.parent / ".scan").iterdir() if path.suffix != ".jsonl"]


def ends(processes: list[Any], seconds: float) -> list[int | None]:
    """Wait for the end of processes, and return their exit codes; None: it still runs."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def test_a_scan_longer_than_a_collectives_time_out_is_shared_and_followed_by_training(
    trainer: Any, tmp_path: Path, losses: Callable[[Path], dict[int, str]]
) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    slow = partial(watch, notes, 0.7)  # 12 clips each: 8.4 s
    trainer(run, "--loop.max_steps=2", processes=2, sabotage=slow)
    assert list(losses(run)) == [1, 2]
    first, second = noted(notes).values()
    assert len(first) == len(second) == 12
    assert len({*first, *second}) == 24
    assert left_over(run) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_freeze_the_manifest_that_one_does(
    trainer: Any, tmp_path: Path, workers: int
) -> None:
    manifests = []
    for processes in (1, 2):
        run, notes = tmp_path / f"{processes}" / "run", tmp_path / f"notes{processes}"
        run.parent.mkdir()
        more, sabotage = (*SPLITS, f"--data.workers={workers}"), partial(watch, notes)
        started = trainer.start(run, *more, processes=processes, sabotage=sabotage)
        while not (run / "manifest.jsonl").exists() and started[0].is_alive():
            time.sleep(0.05)
        ends(started, 0)
        manifests.append((run / "manifest.jsonl").read_bytes())
        measured = {rank: len(clips) for rank, clips in noted(notes).items()}
        assert measured == ({"0": 36} if processes == 1 else {"0": 18, "1": 18})
        assert left_over(run) == []
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_start_that_was_killed_in_its_scan_measures_only_the_rest_when_repeated(
    trainer: Any, tmp_path: Path, processes: int
) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    one = ("--loop.max_steps=1",)
    deadly = partial(watch, notes, 0.02, {"0": 8, "1": 8})
    killed = trainer.start(run, *one, processes=processes, sabotage=deadly)
    assert ends(killed, 60) == [-signal.SIGKILL] * processes
    assert not list((tmp_path / ".scan").glob("*.jsonl"))
    assert [len(clips) for clips in noted(notes).values()] == [8] * processes
    trainer(run, *one, processes=processes, sabotage=partial(watch, notes))
    times = Counter(clip for clips in noted(notes).values() for clip in clips)
    assert len(times) == 24
    assert set(times.values()) == {1}
    assert left_over(run) == []


def test_a_process_that_dies_in_the_scan_ends_the_run(trainer: Any, tmp_path: Path) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    both = trainer.start(run, processes=2, sabotage=partial(watch, notes, 0.1, {"1": 3}))
    assert ends(both, 60) == [2, -signal.SIGKILL]
    assert "error: process 1 has not responded for" in (tmp_path / "run.0.log").read_text()
    assert not (run / "manifest.jsonl").exists()


def test_a_main_process_that_dies_in_the_scan_ends_the_others(trainer: Any, tmp_path: Path) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    both = trainer.start(run, processes=2, sabotage=partial(watch, notes, 0.5, {"0": 1}))
    assert ends(both, 60) == [-signal.SIGKILL, 1]
    assert "the main process exited" in (tmp_path / "run.1.log").read_text()
    assert len(noted(notes)["1"]) < 12


@pytest.mark.parametrize(("rank", "other"), [("0", "1"), ("1", "0")])
def test_a_process_that_fails_in_the_scan_ends_the_run_and_the_others_say_why(
    trainer: Any, tmp_path: Path, rank: str, other: str
) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    broken = partial(watch, notes, 0.3, None, {rank: 2})
    both = trainer.start(run, processes=2, sabotage=broken)
    assert ends(both, 60) == [1, 1]
    assert "of a fault in the program" in (tmp_path / f"run.{rank}.log").read_text()
    output = (tmp_path / f"run.{other}.log").read_text()
    assert f"{'the main process' if rank == '0' else 'process 1'} failed: KeyError" in output
    assert len(noted(notes)[other]) < 12  # it does not measure its share to the end


def test_a_mistake_that_the_main_process_finds_is_one_sentence_on_all(
    trainer: Any, tmp_path: Path, copied: Path
) -> None:
    (copied / "clips" / "common_voice_en_train_003.mp3").unlink()
    run, notes = tmp_path / "run", tmp_path / "notes"
    extra = ("--data.corpus", str(copied))
    both = trainer.start(run, *extra, processes=2, sabotage=partial(watch, notes))
    assert ends(both, 60) == [2, 2]
    for rank, name in enumerate(("error", "error on process 1")):
        output = (tmp_path / f"run.{rank}.log").read_text()
        assert f"{name}: " in output
        assert "train_003.mp3: no such file, though train lists it" in output
        assert "Traceback" not in output


def lose_results(notes: Path) -> None:
    """Write nothing down on the second process."""
    watch(notes)
    if os.environ["RANK"] == "1":
        measurements.append_jsonl = lambda *_: None


def test_what_another_process_found_and_lost_is_measured_by_the_main_process(
    trainer: Any, tmp_path: Path
) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    trainer(run, "--loop.max_steps=1", processes=2, sabotage=partial(lose_results, notes))
    assert {rank: len(clips) for rank, clips in noted(notes).items()} == {"0": 24, "1": 12}
    assert len((run / "manifest.jsonl").read_text().splitlines()) == 24


def hide_list(notes: Path) -> None:
    """Be on two machines which do not see the same disk."""
    watch(notes, 0.2)
    if os.environ["RANK"] == "1":
        read = shared_scan.read_jsonl
        shared_scan.read_jsonl = lambda path: read(path.with_name("elsewhere"))


def test_a_process_that_does_not_see_the_runs_folder_is_one_sentence(
    trainer: Any, tmp_path: Path
) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    both = trainer.start(run, processes=2, sabotage=partial(hide_list, notes))
    assert ends(both, 60) == [2, 2]
    for rank in range(2):
        output = (tmp_path / f"run.{rank}.log").read_text()
        assert "process 1 cannot read it (No such file or directory): set run_dir to a" in output
        assert "Traceback" not in output
