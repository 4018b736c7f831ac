"""Accelerate's trackers: TensorBoard and wandb go on with a run; others begin a new one."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from data.atomic_files import write_json
from data.errors import InputError
from trainer.metrics.meter import LogConfig

TENSORBOARD = "tensorboard"  # also the name of its folder in the run's folder
IDENTITY = "tracker.json"  # in the run's folder: the run's id for wandb
Settings = Mapping[str, str | float | int | None]


def begin_trackers(
    folder: Path, log: LogConfig, settings: Settings, step: int
) -> list[GeneralTracker]:
    """Begin all trackers, or go on with them after an update.

    Args:
        folder: the run's.
        log: names the trackers and the project.
        settings: the run's config, flat.
        step: updates made before.

    Raises:
        InputError: one cannot begin.
    """
    begun = []
    for name in log.trackers:
        tracker = _build(name, folder, log.project, step)
        try:
            tracker.start()
        except Exception as error:  # each has errors of its own
            raise InputError(
                f"log.trackers: {name} could not begin ({error}): log in to its server, set it to "
                "work offline, or remove it from log.trackers"
            ) from error
        if name != TENSORBOARD:  # there each start would be one more run; config.yaml lies beside
            tracker.store_init_configuration(dict(settings))
        begun.append(tracker)
    return begun


def _build(name: str, folder: Path, project: str, step: int) -> GeneralTracker:
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    if name == TENSORBOARD:
        return kind(TENSORBOARD, str(folder), purge_step=step + 1)  # it forgets what came after
    where = (str(folder),) if kind.requires_logging_directory else ()
    knobs: dict[str, Any] = {}
    if name == "wandb":
        knobs = {"id": _identity(folder), "name": folder.resolve().name, "resume": "allow"}
        knobs |= {"dir": str(folder)}
    tracker: GeneralTracker = kind(project, *where, **knobs)
    return tracker


def _identity(folder: Path) -> str:
    """Return the id that the run has on a server: drawn at its first start, and kept."""
    path = folder / IDENTITY
    if not path.is_file():
        write_json(path, {"id": uuid.uuid4().hex[:12]})
    return str(json.loads(path.read_text(encoding="utf-8"))["id"])
