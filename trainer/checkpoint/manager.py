"""Checkpoints: written beside training, verified before they are read.

One process copies everything to host memory and a thread writes the copy, as the files that
Accelerate's load_state reads. A GPU goes on computing while it is copied. What FSDP shards is
gathered for it, so that any number of processes goes on from there, with FSDP or without.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from data.errors import InputError, is_disk_error
from eval.main_process import run_on_main_process
from trainer.checkpoint.atomic_folder import discard, require_free
from trainer.checkpoint.pinned_copy import PinnedCopy
from trainer.checkpoint.rotation import NAME, CheckpointRotation, read_progress, step_of
from trainer.checkpoint.snapshot import Snapshot, restore
from trainer.distributed.collectives import sum_over_processes
from trainer.distributed.fsdp import is_sharded
from trainer.process.watchdog_process import SAVING, SAVING_SECONDS
from trainer.state import TrainState

RETRIES = (1.0, 4.0)  # seconds to wait before another try: space may be freed, a mount come back


class Checkpoints:
    """Writes and reads the checkpoints of a run."""

    def __init__(
        self,
        rotation: CheckpointRotation,
        accelerator: Accelerator,
        print_fn: Callable[[str], None],
    ) -> None:
        """Take where they stand, what is saved, and what tells a person."""
        self.rotation = rotation
        self.accelerator = accelerator
        self.print_fn = print_fn
        self.failed = ""  # why the last one could not be written
        self._saved_path: Path | None = None  # what was written or loaded last, in the folder
        self._loaded_step: int | None = None  # the update that weights are of; None: state knows
        self._stepped_at = -1  # update after which they were moved last; -1: they were loaded
        self.seconds = 0.0  # writing the last one took
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: list[Future[None]] = []  # in order: the thread does one after the other
        self._submitted_step: int | None = None  # the update whose weights were given to it last
        self._pinned: PinnedCopy | None = None  # made with the first snapshot of a GPU

    def track_steps(self, state: TrainState) -> None:
        """Note when weights are moved: what the state has not counted is not saved after errors."""
        if is_sharded(self.accelerator):  # nothing is saved after an error
            return
        (optimizer,) = self.accelerator._optimizers
        optimizer.optimizer.register_step_pre_hook(lambda *_: self._note_step(state.step))

    def _note_step(self, step: int) -> None:
        self._stepped_at, self._loaded_step = step, None

    def save(self, state: TrainState, shape: dict[str, Any]) -> None:
        """Begin to write a checkpoint of this update; every process must call.

        Where its weights are on the disk already, or on their way, only the state is written.

        Args:
            state: all progress.
            shape: the knobs that shape training, to be compared at a resume.
        """
        progress = {"state": state.state_dict(), "shape": shape}
        main = self.accelerator.is_main_process
        if self._is_submitted(state.step):
            if main:
                self._writing.append(self._thread.submit(self._rewrite_state, progress))
            return
        self.settle()
        snapshot = self._take() if main or is_sharded(self.accelerator) else None
        if main and snapshot is not None:
            self._writing.append(self._thread.submit(self._write, snapshot, progress))
        self._submitted_step = state.step

    def _is_submitted(self, step: int) -> bool:
        """Tell whether an update's weights need not be given to the thread."""
        if is_sharded(self.accelerator):  # all or none give their parts
            return self.is_saved(step)
        busy = any(not writing.done() for writing in self._writing)
        return (busy and self._submitted_step == step) or self._is_on_disk(step)

    def _is_on_disk(self, step: int) -> bool:
        return self._saved_path is not None and step_of(self._saved_path) == step

    def is_saved(self, step: int) -> bool:
        """Wait for what is being written; tell whether an update is on the disk.

        Every process must call: the main process knows. Not through the key-value store, which
        torchrun takes away from processes that it has asked to stop.
        """
        self.settle()
        mine = self.accelerator.is_main_process and self._is_on_disk(step)
        (held,) = sum_over_processes(self.accelerator, [float(mine)])
        return held > 0

    def save_after_error(self, state: TrainState, shape: dict[str, Any]) -> None:
        """Write a checkpoint where an error ends training, on whichever process it does.

        Others may wait in vain for a word from this one. Where several come here, one writes, and
        the rest wait for it: a launcher kills all processes soon after the first has ended.
        """
        self.settle()
        counted = state.step > self._stepped_at and self._loaded_step in (None, state.step)
        place, pending = self.rotation.place(state.step), self.rotation.pending(state.step)
        if not state.step or not counted or place.exists() or is_sharded(self.accelerator):
            return
        claim = pending.with_name(f"{pending.name}{SAVING}")
        try:
            claim.mkdir(parents=True)
        except FileExistsError:
            _wait_until_gone(claim)
            return
        try:
            # a name of its own: the main process may be writing the same update
            own = pending.with_name(f"{pending.name}.{self.accelerator.process_index}")
            progress = {"state": state.state_dict(), "shape": shape}
            self._write(self._take(), progress, own)
        finally:
            claim.rmdir()

    def wait_for_copy(self) -> None:
        """Make the GPU end its copy before it changes weights in place by what it is given next.

        The optimizer's step and load() do so by themselves.
        """
        if self._pinned is not None:
            self._pinned.wait()

    def settle(self) -> None:
        """Wait for the checkpoint that is being written; a mistake of its writer is raised here."""
        while self._writing:
            self._writing.pop(0).result()

    def close(self) -> None:
        """Wait for the last checkpoint.

        Raises:
            InputError: it could not be written.
        """
        self.settle()
        if self.failed:
            raise InputError(
                f"the last checkpoint could not be written ({self.failed}): the one before is "
                "whole; go on from it with --resume=auto"
            )

    def find(self, resume: str | None) -> Path | None:
        """Return the checkpoint that `resume` names, verified: auto is the newest whole one.

        Raises:
            InputError: a path holds no whole checkpoint, or there are some and none is whole.
        """
        if resume is None:
            return None
        return run_on_main_process(
            self.accelerator, lambda: self.rotation.find(resume, self.print_fn)
        )

    def load(self, path: Path, state: TrainState) -> None:
        """Restore weights, optimizer, scaler and progress.

        Args:
            path: a verified checkpoint.
            state: takes over the saved progress.

        Raises:
            InputError: another version wrote it.
        """
        state.load_state_dict(read_progress(path)["state"])
        self.wait_for_copy()
        self._loaded_step = -1  # of none, until all is read
        restore(self.accelerator, path, self.print_fn)
        self._stepped_at, self._loaded_step = -1, state.step
        own = path.parent == self.rotation.folder and NAME.fullmatch(path.name)
        self._saved_path = path if own else None

    def _take(self) -> Snapshot:
        """Copy what is saved; the snapshot before must have been written."""
        on_gpu = self.accelerator.device.type == "cuda"
        if self._pinned is None and on_gpu and not is_sharded(self.accelerator):
            (optimizer,) = self.accelerator._optimizers
            self._pinned = PinnedCopy(optimizer.optimizer, self.accelerator.device, self.print_fn)
        return Snapshot.take(self.accelerator, self._pinned)

    def _write(
        self, snapshot: Snapshot, progress: dict[str, Any], pending: Path | None = None
    ) -> None:
        """Write a snapshot, in the thread. A disk that is full or broken does not end training."""
        pending = pending or self.rotation.pending(progress["state"]["step"])
        began = time.monotonic()
        for pause in (*RETRIES, 0.0):
            try:
                discard(pending)
                pending.mkdir(parents=True)
                require_free(pending, 2 * snapshot.bytes)
                snapshot.write(pending)
                self._saved_path = self.rotation.publish(pending, progress)
                self.failed, self.seconds = "", time.monotonic() - began
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
            "The one before stays; the next is tried when it is due"
        )

    def _rewrite_state(self, progress: dict[str, Any]) -> None:
        """Write the state anew, in the thread. A full disk leaves the checkpoint as it was."""
        step = progress["state"]["step"]
        if self._saved_path is None or step_of(self._saved_path) != step:  # it could not be written
            return
        try:
            self._saved_path = self.rotation.rewrite_state(self._saved_path, progress)
            self._prune()
        except (OSError, InputError) as error:  # a full disk; or somebody took the checkpoint away
            discard(self.rotation.pending(step))
            self.print_fn(
                f"WARNING: the evaluation of update {step} could not be added to its checkpoint "
                f"({error}): free some space; a resume from there evaluates it again"
            )

    def _prune(self) -> None:
        """Delete old checkpoints; where that fails, the new one is on the disk all the same."""
        try:
            self.rotation.prune()
        except OSError as error:
            self.print_fn(f"WARNING: an old checkpoint could not be deleted: {error}")


def _wait_until_gone(folder: Path) -> None:
    end = time.monotonic() + SAVING_SECONDS
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.1)
