"""A run that is asked to stop saves a checkpoint, sets its status, and leaves no orphans."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.conftest import descendants, started
from trainer.process.run_status import record_status
from trainer.process.signals import SECOND_REQUEST_SECONDS, SIGNALS, STOPPED, Stopped, StopSignal
from trainer.process.watchdog import Watchdog

REPOSITORY = Path(__file__).resolve().parents[3]
MAIN = str(REPOSITORY / "trainer" / "main.py")
ENDLESS = ("--loop.max_steps=100000", "--checkpoint.save_every=100000", "--log.log_every=1")
Losses = Callable[[Path], dict[int, str]]


def wait_for(happened: Callable[[], bool], process: Any, seconds: float = 120) -> None:
    """Wait until something has happened, while a process lives."""
    deadline = time.monotonic() + seconds
    while not happened():
        alive = process.is_alive() if hasattr(process, "is_alive") else process.poll() is None
        assert alive, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trains(run: Path, losses: Losses) -> Callable[[], bool]:
    """Return what tells whether a run has made updates."""
    return lambda: (run / "metrics.jsonl").exists() and len(losses(run)) >= 3


def status_of(run: Path) -> dict[str, Any]:
    """Return how a run's last start ended."""
    status: dict[str, Any] = json.loads((run / "status.json").read_text(encoding="utf-8"))
    return status


def status_once_ended(run: Path) -> dict[str, Any]:
    """Return how a start ended, which its watchdog process writes a moment later."""
    deadline = time.monotonic() + 10
    while status_of(run)["status"] == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    return status_of(run)


def saved_step(run: Path) -> int:
    """Return the update of a run's only checkpoint."""
    (path,) = (run / "checkpoints").iterdir()
    return int(json.loads((path / "state.json").read_text())["state"]["step"])


@pytest.mark.parametrize(
    "name",
    [  # tests of launch.sh and of a closed pipe send the others
        "SIGTERM",
        pytest.param("SIGINT", marks=pytest.mark.slow),
        pytest.param("SIGUSR1", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_process_saves_its_last_update(
    trainer: Any, tmp_path: Path, losses: Losses, name: str
) -> None:
    run = tmp_path / "run"
    (process,) = trainer.start(run, *ENDLESS, "--data.workers=1")
    wait_for(trains(run, losses), process)
    began = time.monotonic()
    os.kill(process.pid, signal.Signals[name])
    process.join(60)
    assert time.monotonic() - began < 25
    assert process.exitcode == STOPPED
    assert status_of(run)["status"] == "stopped"
    assert status_of(run)["exit"] == STOPPED
    assert saved_step(run) == max(losses(run))
    last = (tmp_path / "run.0.log").read_text().splitlines()[-1]
    assert last.startswith(f"stopped at update {max(losses(run))} of 100000, saved: --resume=auto")
    assert status_of(run)["reason"] == last


@pytest.mark.parametrize(
    "rank",
    [
        pytest.param(0, id="the main process", marks=pytest.mark.slow),
        pytest.param(1, id="the other process"),
    ],
)
def test_a_signal_to_either_of_two_processes_stops_both(
    trainer: Any, tmp_path: Path, losses: Losses, rank: int
) -> None:
    run = tmp_path / "run"
    both = trainer.start(run, *ENDLESS, processes=2)
    wait_for(trains(run, losses), both[0])
    os.kill(both[rank].pid, signal.SIGTERM)
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [STOPPED, STOPPED]
    assert saved_step(run) == max(losses(run))


def test_a_run_outlives_the_reader_of_its_output(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    run, pipe = tmp_path / "run", tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    process = forked.start(
        forked.Program(
            work=forked.train,
            arguments=(MAIN, *trainer.arguments(run, *ENDLESS)),
            out=pipe,
            err=tmp_path / "log",
            environment={"ACCELERATE_USE_CPU": "true"},
        )
    )
    wait_for(trains(run, losses), process)
    os.close(reader)  # as Ctrl-C ends `tee`
    seen = len(losses(run))
    wait_for(lambda: len(losses(run)) > seen + 2, process)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == STOPPED, (tmp_path / "log").read_text()
    assert saved_step(run) == max(losses(run))


def test_a_stop_before_the_first_update_leaves_nothing_half_done(
    trainer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (process,) = trainer.start(run, *ENDLESS, "--data.dev_split=dev", "--eval.max_length=224")
    wait_for((run / "manifest.jsonl").exists, process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == STOPPED
    assert "stopped before" in (tmp_path / "run.0.log").read_text().splitlines()[-1]
    assert not list((run / "checkpoints").glob("*"))
    trainer(run, "--resume=auto", "--loop.max_steps=1")


def test_an_evaluation_that_was_cut_off_is_made_up_for(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    extra = ("--data.dev_split=dev", "--loop.eval_every=2", "--eval.max_length=4")
    slow = (*extra, "--loop.max_steps=3", "--eval.batch_seconds=0.1")  # each clip alone
    trainer(whole, *slow)
    (process,) = trainer.start(cut, *slow, sabotage=slow_evaluations)
    wait_for(lambda: (cut / "metrics.jsonl").exists() and 2 in losses(cut), process)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == STOPPED
    assert not (cut / "eval" / "step-00000002").exists()
    trainer(cut, *slow, "--resume=auto")
    assert losses(cut) == losses(whole)
    scores = "eval/step-00000002/dev/utterances.jsonl"
    assert (cut / scores).read_text() == (whole / scores).read_text()
    states = [(run / "checkpoints/step-00000003/state.json").read_text() for run in (whole, cut)]
    assert states[0] == states[1]


def slow_evaluations() -> None:
    """Make each batch of an evaluation take its time."""
    import eval.evaluate

    transcribe = eval.evaluate.transcribe

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.3)
        return transcribe(*arguments)

    eval.evaluate.transcribe = slowly


def test_a_slow_update_is_given_up_for_a_stop(trainer: Any, tmp_path: Path, losses: Losses) -> None:
    run = tmp_path / "run"
    extra = (*ENDLESS, "--data.max_seconds_per_forward=5", "--loop.stall_seconds=0")
    (process,) = trainer.start(run, *extra, sabotage=slow_passes)
    wait_for(lambda: (run / "metrics.jsonl").exists() and 2 in losses(run), process)
    time.sleep(0.6)  # into the third update, which takes 2 s or more
    os.kill(process.pid, signal.SIGTERM)
    began = time.monotonic()
    process.join(60)
    assert process.exitcode == STOPPED
    assert time.monotonic() - began < 10
    assert saved_step(run) == 2


def slow_passes() -> None:
    """Make each forward pass take half a second, and call that slow."""
    import trainer.heartbeat
    import trainer.model

    trainer.heartbeat.SLOW_SECONDS = 1.0
    forward = trainer.model.TrainingModule.forward

    def slowly(*arguments: Any, **more: Any) -> Any:
        time.sleep(0.5)
        return forward(*arguments, **more)

    trainer.model.TrainingModule.forward = slowly  # type: ignore[method-assign]


def get_three_signals(folder: Path) -> None:
    """Get two signals at once, and a third when it is no longer the same request."""
    with record_status(folder) as status:
        stop = StopSignal(Watchdog(0.0, status).exit_now)
        stop.install_handlers()
        stop.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # launchers pass on what the group got as well
        time.sleep(SECOND_REQUEST_SECONDS + 0.2)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def test_a_second_signal_ends_it_at_once_and_status_json_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log"
    work = partial(get_three_signals, tmp_path)
    process = forked.start(forked.Program(work=work, out=log, err=log))
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM, log.read_text()
    ended = status_once_ended(tmp_path)
    assert (ended["status"], ended["exit"]) == ("killed", 128 + signal.SIGTERM)
    assert "a second time" in ended["reason"]


def test_a_signal_before_training_is_not_put_off() -> None:
    stop = StopSignal()
    stop.signal = signal.SIGTERM
    with pytest.raises(Stopped):
        stop.defer()


BIN = Path(sys.executable).parent
LAUNCHERS = {
    "launch.sh": ["bash", str(REPOSITORY / "launch.sh")],
    "accelerate": [str(BIN / "accelerate"), "launch", "--quiet", "--cpu", MAIN],
    "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node=2", MAIN],
}
USUAL = ("launch.sh", "SIGUSR1")  # it starts `accelerate launch`
RARE = [
    pytest.param(launcher, number.name, marks=pytest.mark.slow)
    for launcher in LAUNCHERS
    for number in SIGNALS
    if (launcher, number.name) != USUAL
]


@pytest.mark.parametrize(("launcher", "name"), [USUAL, *RARE])
def test_a_signal_to_a_launcher_saves_and_leaves_no_orphan(
    trainer: Any, tmp_path: Path, losses: Losses, launcher: str, name: str
) -> None:
    run = tmp_path / "run"
    arguments = trainer.arguments(run, *ENDLESS, "--data.workers=1")
    recipe = tmp_path / "empty.yaml"
    recipe.write_text("seed: 0\n")
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    command = [*LAUNCHERS[launcher], str(recipe), *arguments]
    with (
        (tmp_path / "log").open("w") as log,
        started(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        wait_for(trains(run, losses), process)
        below = descendants(process.pid)
        began = time.monotonic()
        os.kill(process.pid, signal.Signals[name])
        process.wait(60)
        while any(Path(f"/proc/{pid}").exists() for pid in below):
            assert time.monotonic() - began < 25, (tmp_path / "log").read_text()
            time.sleep(0.1)
    assert len(below) >= 2
    assert status_of(run)["exit"] == STOPPED, (tmp_path / "log").read_text()
    assert saved_step(run) == max(losses(run))
    if launcher == "launch.sh":
        assert process.returncode == STOPPED
