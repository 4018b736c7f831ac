"""Save checkpoints in the background, and load verified ones.

The main process copies the state to host memory, and a thread (writer.py) writes the copy as the
files that Accelerate's load_state reads. A GPU keeps computing during the copy. What FSDP shards is
gathered, so that training can resume on any number of processes, with FSDP or without.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from data.errors import InputError
from eval.main_process import run_on_main_process
from trainer.checkpoint.pinned_memory import PinnedCopy
from trainer.checkpoint.rotation import NAME, CheckpointRotation, read_progress
from trainer.checkpoint.snapshot import Snapshot, restore
from trainer.checkpoint.writer import CheckpointWriter
from trainer.distributed.collectives import sum_over_processes
from trainer.distributed.fsdp import is_sharded
from trainer.process.watchdog_process import SAVING, SAVING_SECONDS
from trainer.state import TrainState


class Checkpoints:
    """Saves and loads the checkpoints of a run."""

    def __init__(
        self,
        rotation: CheckpointRotation,
        accelerator: Accelerator,
        print_fn: Callable[[str], None],
    ) -> None:
        """Start no thread and allocate nothing yet.

        Args:
            rotation: the folder of checkpoints.
            accelerator: holds the model, the optimizer and the loss scaler.
            print_fn: prints warnings.
        """
        self.rotation = rotation
        self.accelerator = accelerator
        self.print_fn = print_fn
        self.writer = CheckpointWriter(rotation, print_fn)
        self._loaded_step: int | None = None  # step of the loaded weights; None after an update
        self._stepped_at = -1  # state.step at the last optimizer step; -1 after load()
        self._submitted_step: int | None = None  # of the snapshot that was submitted last
        self._pinned: PinnedCopy | None = None  # created with the first snapshot on a GPU

    def track_steps(self, state: TrainState) -> None:
        """Record optimizer steps, so that weights newer than the state are not saved after errors.

        Args:
            state: its step is counted after the optimizer's.
        """
        if is_sharded(self.accelerator):  # save_after_error() saves nothing
            return
        (optimizer,) = self.accelerator._optimizers
        optimizer.optimizer.register_step_pre_hook(lambda *_: self._record_step(state.step))

    def _record_step(self, step: int) -> None:
        self._stepped_at, self._loaded_step = step, None

    def save(self, state: TrainState, shape: dict[str, Any]) -> None:
        """Start writing a checkpoint; all processes must call this.

        If the weights of this step are written already, or being written, only the state is.

        Args:
            state: progress of training.
            shape: the settings that define training, compared when it is resumed.
        """
        progress = {"state": state.state_dict(), "shape": shape}
        main = self.accelerator.is_main_process
        if self._is_submitted(state.step):
            if main:
                self.writer.submit_state(progress)
            return
        self.wait_for_write()
        snapshot = self._take_snapshot() if main or is_sharded(self.accelerator) else None
        if main and snapshot is not None:
            self.writer.submit(snapshot, progress)
        self._submitted_step = state.step

    def _is_submitted(self, step: int) -> bool:
        """Return whether the weights of a step are written or being written."""
        if is_sharded(self.accelerator):  # all processes gather, or none: they must agree
            return self.is_saved(step)
        busy = self.writer.is_busy()
        return (busy and self._submitted_step == step) or self.writer.is_on_disk(step)

    def is_saved(self, step: int) -> bool:
        """Wait for the writes, and return whether the checkpoint of a step is on disk.

        All processes must call this. The main process tells the others by a collective, not by the
        key-value store: torchrun shuts that down for processes that it has asked to stop.
        """
        self.wait_for_write()
        on_disk = self.accelerator.is_main_process and self.writer.is_on_disk(step)
        (count,) = sum_over_processes(self.accelerator, [float(on_disk)])
        return count > 0

    def save_after_error(self, state: TrainState, shape: dict[str, Any]) -> None:
        """Write a checkpoint if an error ends training, from the process that has the error.

        It uses no collective, since other processes may never reach it. If several processes call
        this, one writes and the others wait: a launcher kills all processes soon after the first
        one exits.
        """
        self.wait_for_write()
        # the weights are those of state.step: no optimizer step or load() was interrupted
        consistent = state.step > self._stepped_at and self._loaded_step in (None, state.step)
        path, pending = self.rotation.path(state.step), self.rotation.pending_path(state.step)
        if not state.step or not consistent or path.exists() or is_sharded(self.accelerator):
            return
        lock = pending.with_name(f"{pending.name}{SAVING}")
        try:
            lock.mkdir(parents=True)
        except FileExistsError:
            _wait_until_gone(lock)
            return
        try:
            # a folder of its own: the main process may be writing a checkpoint of the same step
            own = pending.with_name(f"{pending.name}.{self.accelerator.process_index}")
            progress = {"state": state.state_dict(), "shape": shape}
            self.writer.write(self._take_snapshot(), progress, own)
        finally:
            lock.rmdir()

    def wait_for_copy(self) -> None:
        """Make later GPU work wait for the copy; call it before weights are changed in place.

        The optimizer's step and load() call it themselves.
        """
        if self._pinned is not None:
            self._pinned.wait()

    def wait_for_write(self) -> None:
        """Wait for the checkpoint that is being written; raise exceptions of the writing thread."""
        self.writer.wait()

    def close(self) -> None:
        """Wait for the last checkpoint.

        Raises:
            InputError: it could not be written.
        """
        self.wait_for_write()
        if self.writer.failed:
            raise InputError(
                f"the last checkpoint could not be written ({self.writer.failed}): the one before "
                "it is complete; resume from it with --resume=auto"
            )

    def find(self, resume: str | None) -> Path | None:
        """Return the verified checkpoint to resume from: the newest complete one for auto.

        Args:
            resume: auto, a path, or None for no checkpoint.

        Raises:
            InputError: the path is no complete checkpoint, or there are some and none is complete.
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
            state: overwritten with the saved progress.

        Raises:
            InputError: another version wrote the checkpoint.
        """
        state.load_state_dict(read_progress(path)["state"])
        self.wait_for_copy()
        self._loaded_step = -1  # equal to no step until everything is loaded
        restore(self.accelerator, path, self.print_fn)
        self._stepped_at, self._loaded_step = -1, state.step
        own = path.parent == self.rotation.folder and NAME.fullmatch(path.name)
        self.writer.saved_path = path if own else None

    def _take_snapshot(self) -> Snapshot:
        """Copy the state to host memory; the previous snapshot must have been written."""
        on_gpu = self.accelerator.device.type == "cuda"
        if self._pinned is None and on_gpu and not is_sharded(self.accelerator):
            (optimizer,) = self.accelerator._optimizers
            self._pinned = PinnedCopy(optimizer.optimizer, self.accelerator.device, self.print_fn)
        return Snapshot.take(self.accelerator, self._pinned)


def _wait_until_gone(folder: Path) -> None:
    end = time.monotonic() + SAVING_SECONDS
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.1)
