"""Open Utterance.audio with soundfile: a file, an archive's member, or a dataset's row."""

import io
import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import soundfile

from data.audio import hf_load_dataset as dataset
from data.audio import tar as archive

HUB_PREFIX = "hub:"  # prefix of the locator of a dataset's row
RATES = range(1_000, 768_001)  # Hz
MAX_CHANNELS = 32
# .pcm has no header: 16 kHz, 16 bits, mono, as in KsponSpeech. A trailing odd byte is ignored
PCM = {
    "samplerate": 16_000,
    "channels": 1,
    "format": "RAW",
    "subtype": "PCM_16",
    "endian": "LITTLE",
}
PCM_BYTES_PER_SECOND = 32_000
# soundfile raises TypeError for files without a header, such as .raw
BROKEN = (soundfile.SoundFileError, OSError, ValueError, TypeError)


class AudioError(Exception):
    """Unusable audio. `reason` is one of a fixed set, `detail` describes this case."""

    def __init__(self, reason: str, detail: str) -> None:
        """Store both parts, so that reasons can be counted."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def open_source(audio: str) -> str | io.BytesIO:
    """Return what soundfile can open: a path, or the bytes of an archive's member or dataset's row.

    Raises:
        OSError: the file does not exist, is empty, or is not a regular file, such as a pipe, whose
            reading would block.
    """
    if audio.startswith(HUB_PREFIX):
        return io.BytesIO(dataset.fetch(json.loads(audio.removeprefix(HUB_PREFIX))))
    if audio.startswith(archive.TAR_PREFIX):
        return io.BytesIO(archive.fetch(*archive.parse_locator(audio)))
    status = os.stat(audio)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a file")
    if status.st_size == 0:
        raise OSError("the file is empty")
    return audio


def containing_file(audio: str) -> str | None:
    """Return the path of the audio file or archive; None for a dataset's row."""
    if audio.startswith(HUB_PREFIX):
        return None
    return archive.parse_locator(audio)[0] if audio.startswith(archive.TAR_PREFIX) else audio


def revision_of(audio: str) -> str | None:
    """Return the commit on the Hub that audio belongs to, if any."""
    if not audio.startswith((HUB_PREFIX, archive.TAR_PREFIX)):
        return None
    revision: str | None = json.loads(audio.partition(":")[2]).get("revision")
    return revision


@contextmanager
def open_audio(audio: str) -> Iterator[soundfile.SoundFile]:
    """Open audio; turn errors until it is closed into an AudioError."""
    try:
        raw = PCM if audio.endswith(".pcm") else {}
        with quiet_stderr, soundfile.SoundFile(open_source(audio), **raw) as file:
            if file.samplerate not in RATES or file.channels > MAX_CHANNELS:
                raise AudioError(
                    "unreadable",
                    f"{file.channels} channels at {file.samplerate} Hz; at most {MAX_CHANNELS} "
                    f"channels at {RATES[0]} to {RATES[-1]} Hz are supported",
                )
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError("missing", "no such file") from error
    except BROKEN as error:
        raise AudioError("unreadable", str(error)) from error


class _Quiet:
    """Redirects file descriptor 2 to /dev/null: libmpg123's warnings would break progress bars."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._saved = -1

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                try:
                    self._saved = os.dup(2)
                except OSError:  # closed by the parent: the next opened file would become it
                    self._saved = -1
                sink = os.open(os.devnull, os.O_WRONLY)
                os.dup2(sink, 2)
                if sink != 2:
                    os.close(sink)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            if self._saved < 0:
                os.close(2)
            else:
                os.dup2(self._saved, 2)
                os.close(self._saved)


quiet_stderr = _Quiet()  # shared by all threads, which would else restore each other's redirection
