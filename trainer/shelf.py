"""Where a run's checkpoints stand: named after their update, verified before use, rotated."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import write_json
from eval.store import wait_to_see
from trainer.sealed import MANIFEST, PENDING, discard, move, seal, stow, sweep, verify

NAME = re.compile(r"step-(\d{8,})(-older)?")  # older: one of two checkpoints of one update
STATE = "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """What is kept to go on from."""

    save_every: int = 500  # updates; the last and every best one are saved as well
    keep: int = 2  # newest checkpoints that stay; the best one stays besides
    keep_every: int | None = None  # updates; checkpoints at multiples of it stay for good

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        for key in ("save_every", "keep", "keep_every"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"checkpoint.{key} must be at least 1, got {value}")


class Shelf:
    """A folder of checkpoints. It reads and renames; what is in them is others' business."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        """Take the folder, and what is to be kept in it."""
        self.folder = folder
        self.config = config

    def pending(self, step: int) -> Path:
        """Return where a checkpoint is written before it is whole."""
        return self.folder / f"{PENDING}{_name(step)}"

    def publish(self, pending: Path, progress: dict[str, Any]) -> None:
        """Put a written checkpoint in its place; only then may an old one go."""
        write_json(pending / STATE, progress)
        target = self.folder / _name(progress["state"]["step"])
        if (target / MANIFEST).exists():  # of the same update, whose evaluation was cut off
            older = target.with_name(f"{target.name}-older")
            discard(older)
            stow(target, older)
        discard(target)  # what is left of one that could not be moved there
        seal(pending, target)
        self._prune(progress["state"]["best_step"])

    def newest(self, say: Callable[[str], None]) -> Path | None:
        """Return the newest whole checkpoint, and say why newer ones were passed over.

        Raises:
            InputError: there are checkpoints, and none is whole.
        """
        sweep(self.folder)
        refused = []
        for path in reversed(self.all()):
            try:
                return verified(path)
            except InputError as error:
                refused.append(str(error))
                say(f"warning: {path.name} is passed over: {error}")
        if refused:
            raise InputError(f"{self.folder}: no checkpoint is whole: {'; '.join(refused)}")
        return None

    def at(self, step: int) -> Path:
        """Return the checkpoint of an update, verified.

        Raises:
            InputError: it is gone or damaged.
        """
        found = [path for path in self.all() if step_of(path) == step]
        if not found:
            raise InputError(
                f"{self.folder / _name(step)}: gone, and it held the best model: start another run"
            )
        return verified(found[0])

    def set_aside(self, newer_than: int) -> None:
        """Rename checkpoints of a future that a resume from an older one gives up."""
        for path in self.all():
            if step_of(path) > newer_than:
                move(path, path.with_name(f"replaced-{time.time_ns()}-{path.name}"))

    def all(self) -> list[Path]:
        """Return the folders of all checkpoints, the oldest first, unverified."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path for path in found if NAME.fullmatch(path.name))

    def _prune(self, best: int) -> None:
        every = self.config.keep_every
        whole = [path for path in self.all() if not path.name.endswith("-older")]
        gone = [path for path in self.all() if path not in whole]
        for old in whole[: -self.config.keep]:
            step = step_of(old)
            if step != best and (every is None or step % every):
                gone.append(old)
        for old in gone:
            discard(old)


def step_of(path: Path) -> int:
    """Return a checkpoint's update, from its name."""
    match = NAME.fullmatch(path.name)
    assert match, path
    return int(match[1])


def read_progress(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state, and the knobs that shaped it."""
    progress: dict[str, Any] = json.loads(wait_to_see(path / STATE).read_text(encoding="utf-8"))
    return progress


def verified(path: Path) -> Path:
    """Return a checkpoint that is whole.

    Raises:
        InputError: it is not, or not what its name says.
    """
    if not path.is_dir():
        raise InputError(f"resume={path}: no checkpoint there; give a checkpoint's folder, or auto")
    verify(path)
    step = read_progress(path)["state"]["step"]
    if NAME.fullmatch(path.name) and step_of(path) != step:
        raise InputError(f"{path}: holds update {step}: not what its name says")
    return path


def _name(step: int) -> str:
    return f"step-{step:08d}"
