"""The audio of a window on disk: one tar file, for as long as the window is trained on."""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from data.audio.tar import Member, locator
from data.streaming.stream import StreamRow
from data.utterance import Utterance


def spool(samples: Iterable[StreamRow], path: Path, revision: str | None) -> list[Utterance]:
    """Write rows as they arrive; return their utterances, each naming its part of the file.

    A tar tells each clip by a header: what was damaged on the disk is no other clip's audio.

    Args:
        samples: rows of a stream; no two are held at once.
        path: the tar file.
        revision: commit of the Hub that the rows are of.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    utterances = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, sample in enumerate(samples):
            header = tarfile.TarInfo(str(number))
            header.size = len(sample.audio)
            member = Member(header.name, tar.offset + tarfile.BLOCKSIZE, header.size)
            tar.addfile(header, io.BytesIO(sample.audio))
            audio = locator(path, member, revision)
            utterances.append(replace(sample.utterance, audio=audio))
    return utterances
