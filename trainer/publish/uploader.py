"""Upload a run's model to the Hub in a background thread, which never stops training."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread

from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hub_logging

from data.atomic_files import write_json
from data.errors import InputError, redact
from trainer.checkpoint.atomic_folder import MANIFEST, hardlink_tree
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation, step_of
from trainer.publish.export import PublishConfig, exported_step
from trainer.publish.hub_repo import Hub

UNSENT = "unsent.json"  # in a run's folder, while an upload is pending
OUTBOX = ".outbox"
LAST = "last-checkpoint"  # folder in the repository
POLL_SECONDS = 15.0  # between two checks for a new checkpoint
RETRY_SECONDS = (30.0, 600.0)  # after a failure: the first pause, and the longest after doubling


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A folder to upload."""

    folder: Path  # hard links to the files, since the run replaces its own folder
    place: str  # folder in the repository
    title: str  # for messages: the model of update 500


class HubUploader:
    """Uploads the newest model, and with publish.checkpoints the newest checkpoint."""

    def __init__(self, run: Path, config: PublishConfig, print_fn: Callable[[str], None]) -> None:
        """Create an uploader; start() starts its thread.

        Args:
            run: the run's folder.
            config: names the repository.
            print_fn: prints a message.
        """
        self.run = run
        self.config = config
        self.print_fn = print_fn
        self.hub = Hub(config.repo or "", private=config.private)
        self._pending: dict[str, Upload] = {}  # by place: a newer upload replaces an older one
        self._sending: Upload | None = None
        self._lock = Lock()
        self._wake = Event()
        self._closing = False
        self._reason = ""  # error message of the last attempt
        self._thread: Thread | None = None
        # path and inode of the manifest of the last checkpoint that was queued
        self._seen: tuple[Path, int] | None = None

    def start(self) -> None:
        """Start the thread, which checks name and token at once."""
        if self.config.repo is None:
            return
        shutil.rmtree(self.run / OUTBOX, ignore_errors=True)  # left behind by a killed process
        # a daemon thread: a server that never answers does not keep the process alive
        self._thread = Thread(target=self._run_loop, name="publisher", daemon=True)
        self._thread.start()
        if (self.run / UNSENT).is_file():
            self.offer_model()

    def offer_model(self) -> None:
        """Queue the run's current model for upload."""
        step = exported_step(self.run / "model")
        if self._thread is not None and step is not None:
            self._queue(self.run / "model", "", f"the model of update {step}")
            self._wake.set()

    def close(self) -> None:
        """Wait up to publish.wait_seconds for pending uploads, and report those that failed."""
        if self._thread is None:
            return
        self._closing = True
        self._wake.set()
        self._thread.join(self.config.wait_seconds)
        if self._thread.is_alive() and not self._reason:
            waited = self.config.wait_seconds
            self._reason = f"not finished after {waited:g} s (publish.wait_seconds)"
        self._write_unsent()
        if unsent := self._unsent():
            self.print_fn(
                f"WARNING: not uploaded to the Hub: {' and '.join(unsent)}: {self._reason}. The "
                f"model is in {self.run / 'model'}: upload it with python -m trainer publish "
                f"{self.run}"
            )
        shutil.rmtree(self.run / OUTBOX, ignore_errors=True)

    def _run_loop(self) -> None:
        disable_progress_bars()
        hub_logging.set_verbosity_error()
        pause, retry_at = RETRY_SECONDS[0], 0.0
        self._attempt(self.hub.ensure_exists)
        while True:
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
            closing = self._closing  # read first: what was queued before close() is still sent
            if self.config.checkpoints:
                self._queue_new_checkpoint()
            if closing or time.monotonic() >= retry_at:
                sent = [self._send_pending(place) for place in sorted(self._pending)]
                pause = RETRY_SECONDS[0] if all(sent) else min(2 * pause, RETRY_SECONDS[1])
                retry_at = 0.0 if all(sent) else time.monotonic() + pause
            if closing:
                return

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Return whether an action succeeded; an error is reported once, not at every retry."""
        try:
            action()
        except Exception as error:  # no error of an upload may stop training
            known = isinstance(error, InputError)
            reason = redact(str(error) if known else f"{type(error).__name__}: {error}")
            if reason != self._reason:
                self.print_fn(f"warning: upload to the Hub failed: {reason}; training continues")
            self._reason = reason
            return False
        self._reason = ""
        return True

    def _send_pending(self, place: str) -> bool:
        with self._lock:
            upload = self._sending = self._pending[place]
        sent = self._attempt(lambda: self._send(upload))
        with self._lock:
            self._sending = None
            newest = self._pending[place] is upload
            if sent and newest:
                del self._pending[place]
        if sent or not newest:
            shutil.rmtree(upload.folder, ignore_errors=True)
        self._write_unsent()
        return sent

    def _send(self, upload: Upload) -> None:
        address = self.hub.send(upload.folder, upload.title.capitalize(), upload.place)
        self.print_fn(f"published {upload.title}: {address}")

    def _queue_new_checkpoint(self) -> None:
        for path in CheckpointRotation(self.run / "checkpoints", CheckpointConfig()).all()[-1:]:
            try:
                # an evaluation of the checkpoint rewrites the manifest, with another inode
                current = path, (path / MANIFEST).stat().st_ino
            except FileNotFoundError:  # it is being replaced or moved: the next poll finds it
                return
            title = f"the checkpoint of update {step_of(path)}"
            if current != self._seen and self._queue(path, LAST, title):
                self._seen = current

    def _queue(self, source: Path, place: str, title: str) -> bool:
        folder = self.run / OUTBOX / f"{place or 'model'}-{time.time_ns()}"
        try:
            hardlink_tree(source, folder)
        except OSError as error:  # a full disk, or the checkpoint was deleted meanwhile
            shutil.rmtree(folder, ignore_errors=True)
            self.print_fn(f"warning: {title} is not uploaded now: {error}")
            return False
        with self._lock:
            old = self._pending.get(place)
            self._pending[place] = Upload(folder=folder, place=place, title=title)
            if old is not None and old is not self._sending:
                shutil.rmtree(old.folder, ignore_errors=True)
        self._write_unsent()
        return True

    def _unsent(self) -> list[str]:
        with self._lock:
            return [upload.title for upload in self._pending.values()]

    def _write_unsent(self) -> None:
        """Write the pending uploads to unsent.json, in case this process is killed."""
        path, unsent = self.run / UNSENT, self._unsent()
        content = {"repo": self.hub.repo, "unsent": unsent, "reason": self._reason}
        try:
            if unsent:
                write_json(path, content)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            self.print_fn(f"warning: {path} could not be written: {error}")
