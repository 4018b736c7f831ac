"""Start Accelerate's trackers; TensorBoard and wandb continue a resumed run, others do not."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from data.atomic_files import write_json
from data.errors import InputError
from trainer.metrics.train_metrics import LogConfig

TENSORBOARD = "tensorboard"  # also the name of its folder in the run's folder
ID_FILE = "tracker.json"  # in the run's folder: the id of the run for wandb
Settings = Mapping[str, str | float | int | None]


def start_trackers(
    folder: Path, log: LogConfig, settings: Settings, step: int
) -> list[GeneralTracker]:
    """Start all trackers, or continue them after a step.

    Args:
        folder: of the run.
        log: names of the trackers and the project.
        settings: of the run, by dotted key.
        step: updates made before.

    Raises:
        InputError: a tracker cannot start.
    """
    trackers = []
    for name in log.trackers:
        tracker = _build(name, folder, log.project, step)
        try:
            tracker.start()
        except Exception as error:  # every tracker has its own exceptions
            raise InputError(
                f"log.trackers: {name} could not start ({error}): log in to its server, set it to "
                "offline mode, or remove it from log.trackers"
            ) from error
        if name != TENSORBOARD:  # TensorBoard would show a further run for each start
            tracker.store_init_configuration(dict(settings))
        trackers.append(tracker)
    return trackers


def _build(name: str, folder: Path, project: str, step: int) -> GeneralTracker:
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    if name == TENSORBOARD:
        return kind(TENSORBOARD, str(folder), purge_step=step + 1)  # hides later steps
    directory = (str(folder),) if kind.requires_logging_directory else ()
    options: dict[str, Any] = {}
    if name == "wandb":
        options = {"id": _run_id(folder), "name": folder.resolve().name, "resume": "allow"}
        options |= {"dir": str(folder)}
    tracker: GeneralTracker = kind(project, *directory, **options)
    return tracker


def _run_id(folder: Path) -> str:
    """Return the run's id on a server; generate it at the first start and save it."""
    path = folder / ID_FILE
    if not path.is_file():
        write_json(path, {"id": uuid.uuid4().hex[:12]})
    return str(json.loads(path.read_text(encoding="utf-8"))["id"])
