"""Write a window's audio to one tar file, which exists while the window is trained on."""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from data.audio.tar import Member, locator
from data.streaming.stream import StreamRow
from data.utterance import Utterance


def write_window(rows: Iterable[StreamRow], path: Path, revision: str | None) -> list[Utterance]:
    """Write rows as they arrive; return their utterances, whose audio is a member of the tar file.

    Each member of a tar has its own header, so a damaged clip is never taken for another one.

    Args:
        rows: of a stream; only one is in memory at a time.
        path: of the tar file.
        revision: commit of the rows on the Hub.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    utterances = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, row in enumerate(rows):
            header = tarfile.TarInfo(str(number))
            header.size = len(row.audio)
            member = Member(header.name, tar.offset + tarfile.BLOCKSIZE, header.size)
            tar.addfile(header, io.BytesIO(row.audio))
            audio = locator(path, member, revision)
            utterances.append(replace(row.utterance, audio=audio))
    return utterances
