"""Write checkpoints in a background thread; a full or broken disk does not end training."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data.errors import InputError, is_disk_error
from trainer.checkpoint.atomic_folder import check_free_space, discard
from trainer.checkpoint.rotation import CheckpointRotation, step_of
from trainer.checkpoint.snapshot import Snapshot

RETRY_SECONDS = (1.0, 4.0)  # before each retry: space may be freed, or a mount return


class CheckpointWriter:
    """Writes snapshots to the folder of checkpoints, one after another."""

    def __init__(self, rotation: CheckpointRotation, print_fn: Callable[[str], None]) -> None:
        """Start no thread yet.

        Args:
            rotation: the folder of checkpoints.
            print_fn: prints warnings.
        """
        self.rotation = rotation
        self.print_fn = print_fn
        self.failed = ""  # why the last checkpoint could not be written
        self.saved_path: Path | None = None  # checkpoint of this run, written or loaded last
        self.seconds = 0.0  # that the last write took
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writes: list[Future[None]] = []  # submitted to the thread, in order

    def submit(self, snapshot: Snapshot, progress: dict[str, Any]) -> None:
        """Start writing a checkpoint; the one before it must have been written.

        Args:
            snapshot: weights, optimizer and scaler.
            progress: the state of training, and the settings that define it.
        """
        self._writes.append(self._thread.submit(self.write, snapshot, progress))

    def submit_state(self, progress: dict[str, Any]) -> None:
        """Replace the state of the last checkpoint, after it has been written."""
        self._writes.append(self._thread.submit(self._rewrite_state, progress))

    def is_busy(self) -> bool:
        """Return whether anything is being written."""
        return any(not write.done() for write in self._writes)

    def is_on_disk(self, step: int) -> bool:
        """Return whether the checkpoint that was written or loaded last is the one of a step."""
        return self.saved_path is not None and step_of(self.saved_path) == step

    def wait(self) -> None:
        """Wait for what is being written; raise exceptions of the writing thread."""
        while self._writes:
            self._writes.pop(0).result()

    def write(
        self, snapshot: Snapshot, progress: dict[str, Any], pending: Path | None = None
    ) -> None:
        """Write a checkpoint in this thread; errors of the disk are retried, then only printed.

        Args:
            snapshot: weights, optimizer and scaler.
            progress: the state of training, and the settings that define it.
            pending: the folder to write to before it is renamed; None for the usual one.
        """
        pending = pending or self.rotation.pending_path(progress["state"]["step"])
        started = time.monotonic()
        for pause in (*RETRY_SECONDS, 0.0):
            try:
                discard(pending)
                pending.mkdir(parents=True)
                check_free_space(pending, 2 * snapshot.bytes)
                snapshot.write(pending)
                self.saved_path = self.rotation.commit(pending, progress)
                self.failed, self.seconds = "", time.monotonic() - started
                self._prune()
                return
            except InputError as error:
                discard(pending)
                reason = str(error)
                break
            except Exception as error:
                discard(pending)
                if not is_disk_error(error):
                    raise
                reason = getattr(error, "strerror", None) or str(error)
                reason += f"; free some space in {self.rotation.folder}"
            time.sleep(pause)
        self.failed = reason
        self.print_fn(
            f"WARNING: NO CHECKPOINT of update {progress['state']['step']}: {reason}. "
            "The previous checkpoint is kept; training continues to the next one"
        )

    def _rewrite_state(self, progress: dict[str, Any]) -> None:
        """Replace the state of the last checkpoint; keep the old one on errors."""
        step = progress["state"]["step"]
        if self.saved_path is None or not self.is_on_disk(step):  # its write failed
            return
        try:
            self.saved_path = self.rotation.rewrite_state(self.saved_path, progress)
            self._prune()
        except (OSError, InputError) as error:  # the disk is full, or the checkpoint was deleted
            discard(self.rotation.pending_path(step))
            self.print_fn(
                f"WARNING: the evaluation of update {step} could not be added to its checkpoint "
                f"({error}): free some space; resuming from there evaluates it again"
            )

    def _prune(self) -> None:
        """Delete old checkpoints; a failure is only a warning, since the new one is on disk."""
        try:
            self.rotation.prune()
        except OSError as error:
            self.print_fn(f"WARNING: an old checkpoint could not be deleted: {error}")
