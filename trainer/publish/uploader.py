"""Sends a run's model to the Hub beside training, which neither waits for it nor ends with it."""

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

UNSENT = "unsent.json"  # in a run's folder, as long as something is on its way
OUTBOX = ".outbox"
LAST = "last-checkpoint"  # the folder in the repository
LOOK = 15.0  # seconds between looks for a new checkpoint
PAUSES = (30.0, 600.0)  # seconds after a failure: the first, doubled up to the last


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A folder that waits to be sent."""

    folder: Path  # a copy by hard links: the run replaces its own
    place: str  # the folder in the repository
    told: str  # what it is


class HubUploader:
    """Sends the newest model, and the newest checkpoint where that is asked for."""

    def __init__(self, run: Path, config: PublishConfig, print_fn: Callable[[str], None]) -> None:
        """Take the run's folder, where it goes, and what tells a person."""
        self.run = run
        self.config = config
        self.print_fn = print_fn
        self.hub = Hub(config.repo or "", private=config.private)
        self._parcels: dict[str, Upload] = {}  # by place: what is newer replaces what waits
        self._sending: Upload | None = None
        self._lock = Lock()
        self._wake = Event()
        self._ending = False
        self._reason = ""  # why the last try failed
        self._thread: Thread | None = None
        self._seen: tuple[Path, int] | None = None  # the checkpoint that was taken last, and when

    def start(self) -> None:
        """Begin: a wrong name or no token is said now, not after days."""
        if self.config.repo is None:
            return
        shutil.rmtree(self.run / OUTBOX, ignore_errors=True)  # what a start that was killed left
        # a daemon: a server that never answers does not keep the process
        self._thread = Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()
        if (self.run / UNSENT).is_file():
            self.offer_model()

    def offer_model(self) -> None:
        """Have the run's model sent as it is now."""
        step = exported_step(self.run / "model")
        if self._thread is not None and step is not None:
            self._offer(self.run / "model", "", f"the model of update {step}")
            self._wake.set()

    def close(self) -> None:
        """Wait for what is on its way, and say what was not sent."""
        if self._thread is None:
            return
        self._ending = True
        self._wake.set()
        self._thread.join(self.config.wait_seconds)
        if self._thread.is_alive() and not self._reason:
            waited = self.config.wait_seconds
            self._reason = f"not through after {waited:g} s (publish.wait_seconds)"
        self._note()
        if left := self._left():
            self.print_fn(
                f"WARNING: not sent to the Hub: {' and '.join(left)}: {self._reason}. The model is "
                f"safe in {self.run / 'model'}: python -m trainer publish {self.run} sends it"
            )
        shutil.rmtree(self.run / OUTBOX, ignore_errors=True)

    def _work(self) -> None:
        disable_progress_bars()
        hub_logging.set_verbosity_error()
        pause, resting_until = PAUSES[0], 0.0
        self._attempt(self.hub.reach)
        while True:
            self._wake.wait(LOOK)
            self._wake.clear()
            ending = self._ending  # read first: what was offered before is sent
            if self.config.checkpoints:
                self._look_for_checkpoint()
            if ending or time.monotonic() >= resting_until:
                sent = [self._deliver(place) for place in sorted(self._parcels)]
                pause = PAUSES[0] if all(sent) else min(2 * pause, PAUSES[1])
                resting_until = 0.0 if all(sent) else time.monotonic() + pause
            if ending:
                return

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Return whether it worked; why not is said once, not at every try."""
        try:
            action()
        except Exception as error:  # training goes on, whatever it is
            known = isinstance(error, InputError)
            reason = redact(str(error) if known else f"{type(error).__name__}: {error}")
            if reason != self._reason:
                self.print_fn(f"warning: nothing is published for now: {reason}; training goes on")
            self._reason = reason
            return False
        self._reason = ""
        return True

    def _deliver(self, place: str) -> bool:
        with self._lock:
            parcel = self._sending = self._parcels[place]
        sent = self._attempt(lambda: self._send(parcel))
        with self._lock:
            self._sending = None
            newest = self._parcels[place] is parcel
            if sent and newest:
                del self._parcels[place]
        if sent or not newest:
            shutil.rmtree(parcel.folder, ignore_errors=True)
        self._note()
        return sent

    def _send(self, parcel: Upload) -> None:
        where = self.hub.send(parcel.folder, parcel.told.capitalize(), parcel.place)
        self.print_fn(f"published {parcel.told}: {where}")

    def _look_for_checkpoint(self) -> None:
        for path in CheckpointRotation(self.run / "checkpoints", CheckpointConfig()).all()[-1:]:
            try:
                found = path, (path / MANIFEST).stat().st_ino  # another after its evaluation
            except FileNotFoundError:  # replaced meanwhile, or half moved: the next look finds it
                return
            told = f"the checkpoint of update {step_of(path)}"
            if found != self._seen and self._offer(path, LAST, told):
                self._seen = found

    def _offer(self, source: Path, place: str, told: str) -> bool:
        folder = self.run / OUTBOX / f"{place or 'model'}-{time.time_ns()}"
        try:
            hardlink_tree(source, folder)
        except OSError as error:  # a full disk, or the shelf was tidied meanwhile
            shutil.rmtree(folder, ignore_errors=True)
            self.print_fn(f"warning: {told} is not sent now: {error}")
            return False
        with self._lock:
            old = self._parcels.get(place)
            self._parcels[place] = Upload(folder=folder, place=place, told=told)
            if old is not None and old is not self._sending:
                shutil.rmtree(old.folder, ignore_errors=True)
        self._note()
        return True

    def _left(self) -> list[str]:
        with self._lock:
            return [parcel.told for parcel in self._parcels.values()]

    def _note(self) -> None:
        """Keep what was not sent in a file, also for when this process is killed."""
        note, left = self.run / UNSENT, self._left()
        told = {"repo": self.hub.repo, "unsent": left, "reason": self._reason}
        try:
            if left:
                write_json(note, told)
            else:
                note.unlink(missing_ok=True)
        except OSError as error:
            self.print_fn(f"warning: {note} could not be written: {error}")
