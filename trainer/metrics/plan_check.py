"""What a plan said about a run, kept beside it; the run tells how that turned out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from data.config_parser import current_names

CHECKED_AFTER = 50  # updates
WEIGHTLESS = ("optim.", "loop.", "eval.")  # knobs that cost updates no time, or are counted anyway


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateTime:
    """What updates take. The workers decode meanwhile, unless there are none."""

    update: float  # seconds, whatever it holds: the optimizer, and what each launch costs
    flop: float  # seconds
    decode: float  # seconds that all workers together take for a second of audio
    alone: bool  # the process that trains decodes as well

    def seconds(self, *, updates: float, flops: float, audio: float) -> float:
        """Return how long some updates take.

        Args:
            updates: their number.
            flops: what one process computes in them.
            audio: seconds of it that one process hears in them.
        """
        computing, decoding = updates * self.update + flops * self.flop, audio * self.decode
        return computing + decoding if self.alone else max(computing, decoding)


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run needs to hold itself against its plan."""

    pace: UpdateTime
    update_seconds: float  # of an update, on average
    scoring_seconds: float  # of all evaluations after the first update
    of: dict[str, Any]  # the circumstances it holds in

    def difference(self, of: Mapping[str, Any]) -> str:
        """Return in what a run's circumstances differ; empty where they do not."""
        for key, value in of.items():
            if self.of.get(key) != value:
                return f"{key} was {self.of.get(key)}, and is {value}"
        return ""


def plan_path(folder: Path) -> Path:
    """Return where the plan of a run is kept: beside its folder, which need not exist."""
    return folder.parent / ".plan" / f"{folder.name}.json"


def circumstances(accelerator: Accelerator, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that a run's speed depends on.

    Args:
        accelerator: knows device, precision and processes.
        shape: the knobs that shape training, and the data's fingerprint.
    """
    device = accelerator.device
    cuda = device.type == "cuda"
    return {
        **{key: value for key, value in shape.items() if not key.startswith(WEIGHTLESS)},
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "precision": str(accelerator.mixed_precision),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
    }


def read_forecast(path: Path) -> Forecast | None:
    """Return what a plan said; None where there is none, or another version wrote it."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["forecast"]
        of = current_names(told["of"])
        return Forecast(**{**told, "of": of, "pace": UpdateTime(**told["pace"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


class PlanCheck:
    """Sums up a run's lines until it can be held against its plan; says so once."""

    def __init__(self, forecast: Forecast, *, at: int, steps: int, processes: int) -> None:
        """Begin after an update.

        Args:
            forecast: what the plan said.
            at: updates made before.
            steps: updates to make in all.
            processes: that share the audio.
        """
        self._forecast = forecast
        self._at, self._steps, self._processes = at, steps, processes
        self._updates = 0
        self._clips = self._took = self._planned = 0.0
        self._told = False

    def add(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Take a line of metrics; return the sentence where it is due."""
        updates, self._at = step - self._at, step
        if self._told or updates <= 0 or "speed/updates_per_second" not in metrics:
            return None
        took = updates / metrics["speed/updates_per_second"]
        self._updates += updates
        self._took += took
        self._clips += took * metrics["speed/clips_per_second"]
        self._planned += self._forecast.pace.seconds(
            updates=updates,
            flops=took * metrics["speed/flops_per_second"],
            audio=took * metrics["speed/audio_seconds_per_second"] / self._processes,
        )
        if self._updates < CHECKED_AFTER:
            return None
        self._told = True
        return self._sentence(step)

    def _sentence(self, step: int) -> str:
        slower, left = self._took / self._planned, self._steps - step
        seconds = left * self._forecast.update_seconds * slower
        seconds += self._forecast.scoring_seconds * left / self._steps
        return (
            f"after {self._updates} updates: {self._clips / self._took:.1f} clips/s, the plan said "
            f"{self._clips / self._planned:.1f} ({1 / slower - 1:+.0%}); it will finish at "
            f"{clock(seconds)}"
        )


def clock(seconds: float) -> str:
    """Return the time of day in so many seconds from now."""
    return f"{datetime.now() + timedelta(seconds=seconds):%Y-%m-%d %H:%M}"
