"""The folder of a run's checkpoints: names, verification, and which ones are kept."""

import errno
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.atomic_files import write_json
from data.errors import InputError
from eval.main_process import wait_until_visible
from trainer.checkpoint.atomic_folder import (
    MANIFEST,
    PENDING,
    delete_leftovers,
    discard,
    hardlink_tree,
    move,
    read_manifest,
    rename_or_copy,
    verify,
    write_manifest,
)

OLDER = "-older"  # suffix of the older one of two checkpoints of the same step
NAME = re.compile(rf"step-(\d{{8,}})({OLDER})?")
STATE = "state.json"
CHECKPOINTS = "checkpoints"  # in a run's folder


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When checkpoints are saved, and which are kept."""

    # Updates between two checkpoints. Evaluated updates and the last one are saved too.
    save_every: int = 500
    keep: int = 2  # Newest checkpoints to keep. The best one is kept too.
    # Checkpoints at multiples of this number of updates are kept for good. None keeps none.
    keep_every: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a number is out of its range.
        """
        for key in ("save_every", "keep", "keep_every"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"checkpoint.{key} must be at least 1, got {value}")


class CheckpointRotation:
    """A folder of checkpoints: finds, commits, renames and deletes them."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        """Store the folder, and the number of checkpoints to keep."""
        self.folder = folder
        self.config = config

    def pending_path(self, step: int) -> Path:
        """Return the folder in which the checkpoint of a step is written."""
        return self.folder / f"{PENDING}{_name(step)}"

    def path(self, step: int) -> Path:
        """Return the folder of the complete checkpoint of a step."""
        return self.folder / _name(step)

    def commit(self, pending: Path, progress: dict[str, Any]) -> Path:
        """Write state and manifest of a checkpoint, and move it to its final path.

        Call prune() only afterwards.

        Args:
            pending: folder with the weights.
            progress: state and settings of training.

        Raises:
            OSError: the disk is full, or the folder was deleted.
        """
        return self._commit(pending, progress, known={})

    def rewrite_state(self, saved: Path, progress: dict[str, Any]) -> Path:
        """Replace the state of a checkpoint, after an evaluation of the same weights.

        Args:
            saved: a complete checkpoint; its other files are hard-linked, not copied.
            progress: of the same step.

        Raises:
            OSError: the disk is full; the checkpoint is unchanged.
            InputError: the manifest of the checkpoint is damaged.
        """
        pending = self.pending_path(progress["state"]["step"])
        discard(pending)
        hardlink_tree(saved, pending)
        known = {name: entry for name, entry in read_manifest(saved).items() if name != STATE}
        return self._commit(pending, progress, known)

    def _commit(self, pending: Path, progress: dict[str, Any], known: dict[str, Any]) -> Path:
        if not pending.is_dir():  # write_json would create it again, without weights
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(pending))
        write_json(pending / STATE, progress)
        write_manifest(pending, known)
        target = self.path(progress["state"]["step"])
        if (target / MANIFEST).exists():  # of the same step, before its evaluation
            older = target.with_name(f"{target.name}{OLDER}")
            discard(older)
            rename_or_copy(target, older)
        else:
            discard(target)  # left by an interrupted move
        move(pending, target)
        return target

    def find(self, resume: str, print_fn: Callable[[str], None]) -> Path | None:
        """Return the verified checkpoint to resume from, and delete what a crash left.

        Args:
            resume: auto for the newest one, or a path.
            print_fn: prints warnings.

        Raises:
            InputError: as newest() for auto, as verified() for a path.
        """
        path = self.newest(print_fn) if resume == "auto" else verified(Path(resume))
        self.clean_up(path)
        return path

    def newest(self, print_fn: Callable[[str], None]) -> Path | None:
        """Return the newest complete checkpoint, with a warning for each newer incomplete one.

        Raises:
            InputError: there are checkpoints, and none is complete.
        """
        reasons = []
        for path in reversed(self.all()):
            try:
                return verified(path)
            except InputError as error:
                reasons.append(str(error))
                print_fn(f"warning: checkpoint {path.name} is skipped: {error}")
        if reasons:
            raise InputError(f"{self.folder}: no checkpoint is complete: {'; '.join(reasons)}")
        return None

    def clean_up(self, resumed: Path | None) -> None:
        """Delete half-written and half-deleted folders, and the older one of two checkpoints.

        Only the training process may call this: any other would delete what that one is writing.

        Args:
            resumed: the verified checkpoint to resume from.
        """
        delete_leftovers(self.folder)
        own = resumed is not None and resumed.parent == self.folder
        if resumed is not None and own and not resumed.name.endswith(OLDER):
            discard(self.folder / f"{resumed.name}{OLDER}")

    def at(self, step: int) -> Path:
        """Return the verified checkpoint of a step.

        Raises:
            InputError: it is missing or damaged.
        """
        paths = [path for path in self.all() if step_of(path) == step]
        if not paths:
            raise InputError(f"{self.path(step)}: there is no such checkpoint")
        return verified(paths[-1])

    def set_aside(self, newer_than: int) -> None:
        """Rename the checkpoints after a step, when training resumes from an older one."""
        for path in self.all():
            if step_of(path) > newer_than:
                set_aside(path)

    def all(self) -> list[Path]:
        """Return the folders of all checkpoints from old to new, unverified."""
        entries = self.folder.iterdir() if self.folder.is_dir() else ()
        paths = [path for path in entries if NAME.fullmatch(path.name)]
        return sorted(paths, key=lambda path: (step_of(path), not path.name.endswith(OLDER)))

    def prune(self) -> None:
        """Delete checkpoints, except those to keep and the best ones that they name."""
        every = self.config.keep_every
        newest = list({step_of(path): path for path in self.all()}.values())  # one per step
        keep = set(newest[-self.config.keep :])
        keep |= {path for path in newest if every is not None and step_of(path) % every == 0}
        added = keep
        while added:  # until it is evaluated, a checkpoint names an earlier one as the best
            steps = {_best_step(path) for path in added}
            added = {path for path in newest if step_of(path) in steps} - keep
            keep |= added
        for path in self.all():
            if path not in keep:
                discard(path)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, from its name."""
    match = NAME.fullmatch(path.name)
    assert match, path
    return int(match[1])


def set_aside(path: Path) -> None:
    """Rename a folder that is no longer part of the run to replaced-TIME-NAME."""
    move(path, path.with_name(f"replaced-{time.time_ns()}-{path.name}"))


def read_progress(path: Path) -> dict[str, Any]:
    """Return the state of a checkpoint, and the settings that define training."""
    progress: dict[str, Any] = json.loads(
        wait_until_visible(path / STATE).read_text(encoding="utf-8")
    )
    return progress


def _best_step(path: Path) -> int:
    """Return the step that a checkpoint names as the best; 0 if it cannot be read."""
    try:
        return int(json.loads((path / STATE).read_text(encoding="utf-8"))["state"]["best_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def verified(path: Path) -> Path:
    """Verify a checkpoint, and return its path.

    Raises:
        InputError: it is missing, incomplete or damaged, or its name is that of another step.
    """
    if not path.is_dir():
        raise InputError(f"resume={path}: no such folder; give the folder of a checkpoint, or auto")
    verify(path)
    if read_manifest(path).keys() <= {STATE}:
        raise InputError(f"{path}: contains no weights")
    step = read_progress(path)["state"]["step"]
    if NAME.fullmatch(path.name) and step_of(path) != step:
        raise InputError(f"{path}: contains update {step}, not that of its name")
    return path


def _name(step: int) -> str:
    return f"step-{step:08d}"
