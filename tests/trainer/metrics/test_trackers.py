"""A run is one run for its trackers, however often it is started; its steps never go backwards."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from data.atomic_files import read_jsonl
from data.errors import InputError
from trainer.config import Config
from trainer.metrics.recorder import Recorder
from trainer.metrics.train_metrics import LogConfig

DEV = ("--data.dev_split=dev", "--eval.max_length=4", "--loop.eval_every=2", "--optim.lr=0.1")


class Kept(GeneralTracker):
    """Stands in for wandb, which tests may lack: takes what Accelerate gives to it."""

    name = "wandb"
    requires_logging_directory = False
    begun: list["Kept"] = []  # noqa: RUF012 - of one test

    def __init__(self, run_name: str, **knobs: Any) -> None:
        """Take the project, and what goes to wandb.init()."""
        super().__init__()
        self.project, self.knobs = run_name, knobs
        self.config: dict[str, Any] = {}
        self.steps: list[int] = []

    @property
    def tracker(self) -> "Kept":
        """Return what is tracked with."""
        return self

    def start(self) -> None:
        """Begin."""
        self.begun.append(self)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the config."""
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Keep the step."""
        assert step is not None
        assert values
        self.steps.append(step)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """Return the trackers that begin in a test."""
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Kept)
    monkeypatch.setattr(Kept, "begun", [])
    return Kept.begun


def recorded(folder: Path, steps: list[int], start: int = 0, **knobs: Any) -> Recorder:
    """Record some steps, as a start of a run does."""
    recorder = Recorder(folder, Accelerator(cpu=True))
    log = LogConfig(trackers=("tensorboard", "wandb"), **knobs)
    recorder.begin(log, Config().flat(), step=start, steps=9)
    for step in steps:
        recorder.record(step, {"train/loss": float(step)})
    recorder.accelerator.end_training()
    return recorder


def test_all_starts_are_one_run_of_the_project_with_the_runs_name_and_config(
    tmp_path: Path, begun: list[Kept]
) -> None:
    folder = tmp_path / "zh"
    folder.mkdir()
    recorded(folder, [1, 2])
    recorded(folder, [3], start=2)
    recorded(tmp_path, [1], project="mine")
    ids = [each.knobs.pop("id") for each in begun]
    assert ids[0] == ids[1] != ids[2]
    assert begun[0].knobs == {"name": "zh", "dir": str(folder), "resume": "allow"}
    assert [each.project for each in begun] == ["whisper-loop", "whisper-loop", "mine"]
    assert begun[0].config["optim.lr"] == 1e-5
    assert all(isinstance(v, str | float | int | None) for v in begun[0].config.values())
    assert not {"print_config", "resume", "accept"} & begun[0].config.keys()
    assert (folder / "tensorboard").is_dir()


def test_steps_of_trackers_never_go_backwards_and_those_of_the_file_are_the_models(
    tmp_path: Path, begun: list[Kept]
) -> None:
    recorded(tmp_path, [0, 1, 2, 3, 2])  # the final evaluation is of the best model, of update 2
    assert begun[0].steps == [0, 1, 2, 3, 3]
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 2]


def test_a_tracker_that_cannot_begin_is_one_sentence(
    tmp_path: Path, begun: list[Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Kept) -> None:
        raise ValueError("no API key")

    monkeypatch.setattr(Kept, "start", refuse)
    with pytest.raises(InputError, match=r"log\.trackers: wandb could not start \(no API key\)"):
        recorded(tmp_path, [])
    assert not begun


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: LevelDB's log format, after 7 bytes of its own."""
    pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    content, place, held = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # a block's end holds no header
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        held += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = pb2.Record()
            record.ParseFromString(held)
            held = b""
            yield record


def stay_offline() -> None:
    """Have wandb write files and ask no server."""
    os.environ["WANDB_MODE"] = "offline"


def test_wandb_itself_takes_all_steps_of_one_run_in_the_runs_folder(
    trainer: Any, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    knobs = (*DEV, "--log.trackers", "tensorboard", "wandb")
    trainer(run, *knobs, "--loop.max_steps=4", sabotage=stay_offline)
    trainer(run, *knobs, "--loop.max_steps=6", "--resume=auto", sabotage=stay_offline)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [".scan", "run"]
    logs = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 2
    assert len({path.name for path in logs}) == 1  # run-ID.wandb
    told: list[int] = []
    for path in logs:
        found = list(records(path))
        (begun,) = {(r.run.project, r.run.display_name) for r in found if r.HasField("run")}
        assert begun == ("whisper-loop", "run")
        config = {u.key or u.nested_key[0] for r in found for u in r.run.config.update}
        config |= {u.key or u.nested_key[0] for r in found for u in r.config.update}
        assert "optim.lr" in config
        told += [r.history.step.num for r in found if r.HasField("history")]
        keys = {item.key or item.nested_key[0] for r in found for item in r.history.item}
        assert {"train/loss", "dev/loss", "time/training_share"} <= keys
    assert told == sorted(told)
    assert {1, 2, 3, 4, 5, 6} <= set(told)
    assert json.loads((run / "tracker.json").read_text())["id"] in logs[0].name
