"""A checkpoint is a folder that is complete or absent.

Accelerate's save_state writes the parts (so FSDP and DeepSpeed keep working) into a temporary
folder; our state goes beside them as JSON, then a manifest of all files with their hashes; the
rename comes last, and only then may an old checkpoint go.
"""

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from data.errors import InputError
from data.files import write_json
from trainer.state import TrainState

PREFIX = "step-"
PENDING = ".pending-"  # a folder being written, or left by a crash
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """What is kept to go on from."""

    save_every: int = 500  # updates; the last and every best one are saved as well
    keep: int = 2  # newest checkpoints that stay; the best one stays besides

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        if self.save_every < 1 or self.keep < 1:
            raise InputError("checkpoint.save_every and checkpoint.keep must be at least 1")


class Checkpoints:
    """Writes, finds and reads the checkpoints of a run."""

    def __init__(self, folder: Path, accelerator: Accelerator, config: CheckpointConfig) -> None:
        """Take the folder that holds one folder a checkpoint."""
        self.folder = folder
        self.accelerator = accelerator
        self.config = config

    def save(self, state: TrainState, plan: dict[str, Any]) -> None:
        """Write a checkpoint of this update; older ones go once it is whole.

        Args:
            state: all progress.
            plan: the knobs that the plan of updates depends on, to be compared at resume.
        """
        target = self.folder / f"{PREFIX}{state.step:08d}"
        pending = self.folder / f"{PENDING}{target.name}"
        try:
            self._write(pending, {"state": state.state_dict(), "plan": plan})
            if self.accelerator.is_main_process:
                shutil.rmtree(target, ignore_errors=True)  # a resume passed here again
                os.replace(pending, target)
                self._prune(state)
        finally:  # a full disk is left no fuller than it was
            if self.accelerator.is_main_process:
                shutil.rmtree(pending, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _write(self, pending: Path, progress: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            shutil.rmtree(pending, ignore_errors=True)
            pending.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(pending), safe_serialization=True)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            write_json(pending / "state.json", progress)
            write_json(pending / MANIFEST, _manifest(pending))

    def load(self, path: Path, state: TrainState, plan: dict[str, Any]) -> None:
        """Restore weights, optimizer, scaler and progress.

        Raises:
            InputError: the checkpoint is damaged, or the plan of updates has changed since.
        """
        verify(path)
        saved = json.loads((path / "state.json").read_text(encoding="utf-8"))
        for key in sorted(plan):
            if saved["plan"].get(key) != plan[key]:
                raise InputError(
                    f"{path}: was trained with {key}={saved['plan'].get(key)}, now it is "
                    f"{plan[key]}: set it back, or start another run"
                )
        self.accelerator.load_state(str(path))
        state.load_state_dict(saved["state"])

    def find(self, resume: str | None) -> Path | None:
        """Return the checkpoint that `resume` names: auto is the newest, or none yet.

        Raises:
            InputError: a path holds no checkpoint.
        """
        if resume is None:
            return None
        if resume == "auto":
            whole = self.all()
            return whole[-1] if whole else None
        if not (Path(resume) / MANIFEST).is_file():
            raise InputError(
                f"resume={resume}: no checkpoint there; give a folder such as "
                f"{self.folder / (PREFIX + '00000500')}, or auto"
            )
        return Path(resume)

    def at(self, step: int) -> Path:
        """Return the checkpoint of an update.

        Raises:
            InputError: it is gone.
        """
        path = self.folder / f"{PREFIX}{step:08d}"
        if not (path / MANIFEST).is_file():
            raise InputError(f"{path}: gone, and it held the best model: start another run")
        return path

    def set_aside(self, newer_than: int) -> None:
        """Rename checkpoints of a future that a resume from an older one gives up."""
        if self.accelerator.is_main_process:
            for path in self.all():
                if step_of(path) > newer_than:
                    path.rename(path.with_name(f"replaced-{int(time.time())}-{path.name}"))
        self.accelerator.wait_for_everyone()

    def all(self) -> list[Path]:
        """Return all complete checkpoints, the oldest first."""
        found = self.folder.glob(f"{PREFIX}*")
        return sorted(path for path in found if (path / MANIFEST).is_file())

    def _prune(self, state: TrainState) -> None:
        best = f"{PREFIX}{state.best_step:08d}"
        for old in self.all()[: -self.config.keep]:
            if old.name != best:
                shutil.rmtree(old)


def step_of(path: Path) -> int:
    """Return a checkpoint's update."""
    saved = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return int(saved["state"]["step"])


def verify(path: Path) -> None:
    """Compare every file of a checkpoint with its manifest.

    Raises:
        InputError: one is missing or differs.
    """
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    for name, expected in manifest.items():
        file = path / name
        if not file.is_file() or _digest(file) != expected:
            raise InputError(
                f"{file}: missing or damaged: remove {path} and resume from an older one"
            )


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _digest(path) for path in files}


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
