"""Where a run's checkpoints stand: named after their update, verified before use, rotated."""

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
    discard,
    hardlink_tree,
    move,
    read_manifest,
    rename_or_copy,
    sweep,
    verify,
    write_manifest,
)

OLDER = "-older"  # one of two checkpoints of one update
NAME = re.compile(rf"step-(\d{{8,}})({OLDER})?")
STATE = "state.json"
CHECKPOINTS = "checkpoints"  # in a run's folder


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When checkpoints are saved, and which are kept."""

    # Updates between two checkpoints. Evaluated updates and the last one are saved too.
    save_every: int = 500
    keep: int = 2  # Newest checkpoints that are kept, each with the best checkpoint that it names.
    # Checkpoints at multiples of this number of updates are kept for good. None keeps none.
    keep_every: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        for key in ("save_every", "keep", "keep_every"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"checkpoint.{key} must be at least 1, got {value}")


class CheckpointRotation:
    """A folder of checkpoints. It reads and renames; what is in them is others' business."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        """Take the folder, and what is to be kept in it."""
        self.folder = folder
        self.config = config

    def pending(self, step: int) -> Path:
        """Return where a checkpoint is written before it is whole."""
        return self.folder / f"{PENDING}{_name(step)}"

    def place(self, step: int) -> Path:
        """Return where a checkpoint of an update stands once it is whole."""
        return self.folder / _name(step)

    def publish(self, pending: Path, progress: dict[str, Any]) -> Path:
        """Put a written checkpoint in its place, and return that; only then may prune() be called.

        Raises:
            OSError: the disk is full, or somebody took the folder away.
        """
        return self._seal(pending, progress, known={})

    def rewrite_state(self, saved: Path, progress: dict[str, Any]) -> Path:
        """Put another state into a checkpoint whose weights are the same: after an evaluation.

        Args:
            saved: the checkpoint, sealed; what it holds besides is linked, not copied.
            progress: of the same update.

        Raises:
            OSError: the disk is full; the checkpoint stays as it was.
            InputError: its manifest is damaged.
        """
        pending = self.pending(progress["state"]["step"])
        discard(pending)
        hardlink_tree(saved, pending)
        known = {name: told for name, told in read_manifest(saved).items() if name != STATE}
        return self._seal(pending, progress, known)

    def _seal(self, pending: Path, progress: dict[str, Any], known: dict[str, Any]) -> Path:
        if not pending.is_dir():  # writing the state would make it anew, without weights
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(pending))
        write_json(pending / STATE, progress)
        write_manifest(pending, known)
        target = self.place(progress["state"]["step"])
        if (target / MANIFEST).exists():  # of the same update, before its evaluation
            older = target.with_name(f"{target.name}{OLDER}")
            discard(older)
            rename_or_copy(target, older)
        else:
            discard(target)  # what is left of one that could not be moved there
        move(pending, target)
        return target

    def find(self, resume: str, print_fn: Callable[[str], None]) -> Path | None:
        """Return the checkpoint that `resume` names, verified, and delete what a crash left.

        Raises:
            InputError: as newest() for auto, as verified() for a path.
        """
        found = self.newest(print_fn) if resume == "auto" else verified(Path(resume))
        self.tidy(found)
        return found

    def newest(self, print_fn: Callable[[str], None]) -> Path | None:
        """Return the newest whole checkpoint, and say why newer ones were passed over.

        Raises:
            InputError: there are checkpoints, and none is whole.
        """
        refused = []
        for path in reversed(self.all()):
            try:
                return verified(path)
            except InputError as error:
                refused.append(str(error))
                print_fn(f"warning: {path.name} is passed over: {error}")
        if refused:
            raise InputError(f"{self.folder}: no checkpoint is whole: {'; '.join(refused)}")
        return None

    def tidy(self, found: Path | None) -> None:
        """Delete what a crash left: what is half written or half deleted, the older of two.

        Only the process that trains may call: another one would delete what that is writing.

        Args:
            found: the checkpoint that is gone on from, verified.
        """
        sweep(self.folder)
        if found is not None and found.parent == self.folder and not found.name.endswith(OLDER):
            discard(self.folder / f"{found.name}{OLDER}")

    def at(self, step: int) -> Path:
        """Return the checkpoint of an update, verified.

        Raises:
            InputError: it is not there, or damaged.
        """
        found = [path for path in self.all() if step_of(path) == step]
        if not found:
            raise InputError(f"{self.place(step)}: not there")
        return verified(found[-1])

    def set_aside(self, newer_than: int) -> None:
        """Rename checkpoints of a future that a resume from an older one gives up."""
        for path in self.all():
            if step_of(path) > newer_than:
                set_aside(path)

    def all(self) -> list[Path]:
        """Return the folders of all checkpoints, the oldest first, unverified."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        paths = [path for path in found if NAME.fullmatch(path.name)]
        return sorted(paths, key=lambda path: (step_of(path), not path.name.endswith(OLDER)))

    def prune(self) -> None:
        """Delete what is neither to be kept nor named as the best by one that is kept."""
        every = self.config.keep_every
        whole = list({step_of(path): path for path in self.all()}.values())  # the newer of two
        kept = set(whole[-self.config.keep :])
        kept |= {path for path in whole if every is not None and step_of(path) % every == 0}
        named = kept
        while named:  # one that is named names the best one before it, until it was evaluated
            steps = {_best_step(path) for path in named}
            named = {path for path in whole if step_of(path) in steps} - kept
            kept |= named
        for path in self.all():
            if path not in kept:
                discard(path)


def step_of(path: Path) -> int:
    """Return a checkpoint's update, from its name."""
    match = NAME.fullmatch(path.name)
    assert match, path
    return int(match[1])


def set_aside(path: Path) -> None:
    """Rename what a run has made and gives up: nothing looks for it by its new name."""
    move(path, path.with_name(f"replaced-{time.time_ns()}-{path.name}"))


def read_progress(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state, and the knobs that shaped it."""
    progress: dict[str, Any] = json.loads(
        wait_until_visible(path / STATE).read_text(encoding="utf-8")
    )
    return progress


def _best_step(path: Path) -> int:
    """Return the update that a checkpoint names as the best, or 0 where that cannot be read."""
    try:
        return int(json.loads((path / STATE).read_text(encoding="utf-8"))["state"]["best_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def verified(path: Path) -> Path:
    """Return a checkpoint that is whole.

    Raises:
        InputError: it is not, or not what its name says.
    """
    if not path.is_dir():
        raise InputError(f"resume={path}: no checkpoint there; give a checkpoint's folder, or auto")
    verify(path)
    if read_manifest(path).keys() <= {STATE}:
        raise InputError(f"{path}: holds no weights")
    step = read_progress(path)["state"]["step"]
    if NAME.fullmatch(path.name) and step_of(path) != step:
        raise InputError(f"{path}: holds update {step}: not what its name says")
    return path


def _name(step: int) -> str:
    return f"step-{step:08d}"
