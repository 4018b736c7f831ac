"""Compare the speed of a run with the forecast of `python -m trainer plan`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from data.config_parser import current_names

CHECK_AFTER = 50  # updates
IGNORED = ("optim.", "loop.", "eval.")  # settings that do not change the time of an update


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateTime:
    """Model of the time of updates: workers decode in parallel, unless there are none."""

    update: float  # seconds of an update of any size: the optimizer, and launching kernels
    flop: float  # seconds per FLOP
    decode: float  # seconds that all workers together take per second of audio
    alone: bool  # there are no workers: the training process decodes

    def seconds(self, *, updates: float, flops: float, audio: float) -> float:
        """Return the time of some updates, in seconds.

        Args:
            updates: number of updates.
            flops: of one process.
            audio: seconds of audio of one process.
        """
        compute, decode = updates * self.update + flops * self.flop, audio * self.decode
        return compute + decode if self.alone else max(compute, decode)


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """The part of a plan that a run is compared with; saved as JSON."""

    pace: UpdateTime
    update_seconds: float  # mean time of an update
    scoring_seconds: float  # of all evaluations after the first update
    of: dict[str, Any]  # conditions of the plan, see conditions()

    def difference(self, conditions: Mapping[str, Any]) -> str:
        """Return the first difference from the conditions of a run, or an empty string."""
        for key, value in conditions.items():
            if self.of.get(key) != value:
                return f"{key} was {self.of.get(key)} in the plan, but is {value}"
        return ""


def plan_path(folder: Path) -> Path:
    """Return the file of a run's plan, outside of the run's folder, which may not exist yet."""
    return folder.parent / ".plan" / f"{folder.name}.json"


def conditions(accelerator: Accelerator, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the speed of a run depends on.

    Args:
        accelerator: device, precision and number of processes.
        shape: the settings that define training, and the fingerprint of the data.
    """
    device = accelerator.device
    cuda = device.type == "cuda"
    return {
        **{key: value for key, value in shape.items() if not key.startswith(IGNORED)},
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "precision": str(accelerator.mixed_precision),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
    }


def read_forecast(path: Path) -> Forecast | None:
    """Return the forecast of a plan; None if there is none, or another version wrote it."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))["forecast"]
        of = current_names(saved["of"])
        return Forecast(**{**saved, "of": of, "pace": UpdateTime(**saved["pace"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


class PlanCheck:
    """Compares the speed of the first 50 updates of a start with the plan, once."""

    def __init__(self, forecast: Forecast, *, step: int, steps: int, processes: int) -> None:
        """Start after an update.

        Args:
            forecast: of the plan.
            step: updates made before.
            steps: updates of the whole run.
            processes: number of processes that share an update.
        """
        self._forecast = forecast
        self._step, self._steps, self._processes = step, steps, processes
        self._updates = 0
        self._clips = self._seconds = self._planned_seconds = 0.0
        self._done = False

    def add(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Add the metrics of a log line; return the message when 50 updates are complete."""
        updates, self._step = step - self._step, step
        if self._done or updates <= 0 or "speed/updates_per_second" not in metrics:
            return None
        seconds = updates / metrics["speed/updates_per_second"]
        self._updates += updates
        self._seconds += seconds
        self._clips += seconds * metrics["speed/clips_per_second"]
        self._planned_seconds += self._forecast.pace.seconds(
            updates=updates,
            flops=seconds * metrics["speed/flops_per_second"],
            audio=seconds * metrics["speed/audio_seconds_per_second"] / self._processes,
        )
        if self._updates < CHECK_AFTER:
            return None
        self._done = True
        return self._message(step)

    def _message(self, step: int) -> str:
        slowdown, left = self._seconds / self._planned_seconds, self._steps - step
        seconds = left * self._forecast.update_seconds * slowdown
        seconds += self._forecast.scoring_seconds * left / self._steps
        return (
            f"after {self._updates} updates: {self._clips / self._seconds:.1f} clips/s; the plan "
            f"said {self._clips / self._planned_seconds:.1f} ({1 / slowdown - 1:+.0%}); it will "
            f"finish at {clock(seconds)}"
        )


def clock(seconds: float) -> str:
    """Return the local time in a number of seconds from now."""
    return f"{datetime.now() + timedelta(seconds=seconds):%Y-%m-%d %H:%M}"
