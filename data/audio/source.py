"""What soundfile can open: a file, a part of an archive or a dataset; nothing out of all bounds."""

import io
import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import soundfile

from data.audio import hf_rows as dataset
from data.audio import tar as archive

HUB = "hub:"  # what the locator of a dataset's row begins with
RATES = range(1_000, 768_001)  # Hz
MAX_CHANNELS = 32
# a .pcm has no header: 16 kHz, 16 bits, mono, as KsponSpeech has them. A byte too many is not read
PCM = {
    "samplerate": 16_000,
    "channels": 1,
    "format": "RAW",
    "subtype": "PCM_16",
    "endian": "LITTLE",
}
PCM_BYTES_PER_SECOND = 32_000
# soundfile raises a TypeError for a file without a header, such as .raw
BROKEN = (soundfile.SoundFileError, OSError, ValueError, TypeError)


class AudioError(Exception):
    """Audio that cannot be used. `reason` is one of a few words, `detail` this case's facts."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep both parts apart, so that reasons can be counted."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def open_source(audio: str) -> str | io.BytesIO:
    """Return what soundfile can open: the path, or the bytes in an archive or a dataset's row.

    Raises:
        OSError: there is no such file, it is empty, or it is no file: reading a pipe would wait
            for ever.
    """
    if audio.startswith(HUB):
        return io.BytesIO(dataset.fetch(json.loads(audio.removeprefix(HUB))))
    if audio.startswith(archive.KIND):
        return io.BytesIO(archive.fetch(*archive.located(audio)))
    status = os.stat(audio)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a file")
    if status.st_size == 0:
        raise OSError("the file is empty")
    return audio


def file_of(audio: str) -> str | None:
    """Return the file that holds audio: its own, or an archive; None for a row of a dataset."""
    if audio.startswith(HUB):
        return None
    return archive.located(audio)[0] if audio.startswith(archive.KIND) else audio


def revision_of(audio: str) -> str | None:
    """Return the commit of the Hub that audio is of, where it is of one."""
    if not audio.startswith((HUB, archive.KIND)):
        return None
    revision: str | None = json.loads(audio.partition(":")[2]).get("revision")
    return revision


@contextmanager
def opened(audio: str) -> Iterator[soundfile.SoundFile]:
    """Open audio; whatever goes wrong with it until it is closed is an AudioError."""
    try:
        raw = PCM if audio.endswith(".pcm") else {}
        with quiet_stderr, soundfile.SoundFile(open_source(audio), **raw) as file:
            if file.samplerate not in RATES or file.channels > MAX_CHANNELS:
                raise AudioError(
                    "unreadable",
                    f"{file.channels} channels at {file.samplerate} Hz; at most {MAX_CHANNELS} "
                    f"channels at {RATES[0]} to {RATES[-1]} Hz can be used",
                )
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError("missing", "no such file") from error
    except BROKEN as error:
        raise AudioError("unreadable", str(error)) from error


class _Quiet:
    """Keeps libmpg123's warnings off file descriptor 2: they would tear a progress display."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._saved = -1

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                try:
                    self._saved = os.dup(2)
                except OSError:  # whoever started this closed it: the next file opened would be it
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


quiet_stderr = _Quiet()  # one for all threads: each would restore what another had silenced
