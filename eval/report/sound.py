"""Audio of an evaluation's page: links to the files of the corpus, or embedded clips."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from data.audio.open_audio import HUB_PREFIX, AudioError
from data.audio.tar import TAR_PREFIX
from data.pages.audio_uri import data_uri
from data.utterance import Utterance

Row = Mapping[str, Any]  # of utterances.jsonl
PLAYABLE = (".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".webm")  # by browsers
REMEDY = "write the page again with --audio embed"
NO_PATH = "utterances.jsonl has no path of the audio"


class Sound(NamedTuple):
    """The audio of a row of the page."""

    uri: str = ""
    reason: str = ""  # why there is none


def link_audio(rows: Sequence[Row], page: Path) -> list[Sound]:
    """Return links to the files of the corpus, relative to the folder of the page."""
    return [_link(row, page) for row in rows]


def embed_audio(rows: Sequence[Row], max_clips: int) -> list[Sound]:
    """Return the audio of the clips with the most edits as data URIs."""
    worst = sorted(range(len(rows)), key=lambda n: -(rows[n]["edits"] or 0))[:max_clips]
    reason = f"the page contains the audio of the {max_clips} clips with the most edits only"
    sounds = [Sound(reason=reason)] * len(rows)
    for n in worst:
        sounds[n] = _embed(rows[n])
    return sounds


def _link(row: Row, page: Path) -> Sound:
    audio = row.get("audio")
    if not audio:
        return Sound(reason=NO_PATH)
    if audio.startswith((HUB_PREFIX, TAR_PREFIX)):
        container = "a dataset" if audio.startswith(HUB_PREFIX) else "an archive"
        return Sound(reason=f"the audio is in {container}: {REMEDY}")
    if not audio.lower().endswith(PLAYABLE):
        return Sound(reason=f"browsers do not play {Path(audio).suffix} files: {REMEDY}")
    folder, name = os.path.split(audio)
    path = os.path.join(_relative_path(folder, page), name)
    start, end = row.get("start") or 0.0, row.get("end")
    fragment = f"#t={start:.3f}" if start or end else ""
    return Sound(quote(os.fsencode(path)) + fragment + (f",{end:.3f}" if end else ""))


@lru_cache  # 20,000 clips have few folders
def _relative_path(folder: str, page: Path) -> str:
    """Return the path of a folder relative to the page, so that both can be moved together."""
    return os.path.relpath(folder, page.resolve())


def _embed(row: Row) -> Sound:
    if not row.get("audio"):
        return Sound(reason=NO_PATH)
    clip = Utterance(
        id=row["id"],
        audio=row["audio"],
        text=row["reference"],
        seconds=row.get("seconds") or 0.0,
        start=row.get("start") or 0.0,
        end=row.get("end"),
    )
    try:
        return Sound(data_uri(clip))
    except AudioError as error:
        return Sound(reason=f"{error.reason}: {error.detail}")
