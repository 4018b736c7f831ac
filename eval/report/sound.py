"""What the page of an evaluation plays: the corpus's own files, or sound inside the page."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from data.audio.source import HUB_PREFIX, AudioError
from data.audio.tar import TAR_PREFIX
from data.pages.audio_uri import data_uri
from data.utterance import Utterance

Row = Mapping[str, Any]  # of utterances.jsonl
PLAYED = (".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".webm")  # by browsers
REMEDY = "make the page again with --audio embed"


class Sound(NamedTuple):
    """What a row of the page plays."""

    uri: str = ""
    told: str = ""  # why there is none


def linked(rows: Sequence[Row], page: Path) -> list[Sound]:
    """Return links to the files of the corpus, relative to the page's folder."""
    return [_link(row, page) for row in rows]


def embedded(rows: Sequence[Row], most: int) -> list[Sound]:
    """Return the sound itself, of so many rows: those with the most edits."""
    worst = sorted(range(len(rows)), key=lambda n: -(rows[n]["edits"] or 0))[:most]
    told = f"the page holds the sound of {most} clips, those with the most edits"
    sounds = [Sound(told=told)] * len(rows)
    for n in worst:
        sounds[n] = _embed(rows[n])
    return sounds


def _link(row: Row, page: Path) -> Sound:
    audio = row.get("audio")
    if not audio:
        return Sound(told="nobody said where the audio is")
    if audio.startswith((HUB_PREFIX, TAR_PREFIX)):
        where = "a dataset" if audio.startswith(HUB_PREFIX) else "an archive"
        return Sound(told=f"the audio is in {where}: {REMEDY}")
    if not audio.lower().endswith(PLAYED):
        return Sound(told=f"browsers do not play {Path(audio).suffix} files: {REMEDY}")
    folder, name = os.path.split(audio)
    path = os.path.join(_way(folder, page), name)
    start, end = row.get("start") or 0.0, row.get("end")
    part = f"#t={start:.3f}" if start or end else ""
    return Sound(quote(os.fsencode(path)) + part + (f",{end:.3f}" if end else ""))


@lru_cache  # of 20,000 clips nearly all lie in one folder
def _way(folder: str, page: Path) -> str:
    """Return how a corpus is reached from a page, so that both can be moved together."""
    return os.path.relpath(folder, page.resolve())


def _embed(row: Row) -> Sound:
    if not row.get("audio"):
        return Sound(told="nobody said where the audio is")
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
        return Sound(told=f"{error.reason}: {error.detail}")
