"""What lies in a corpus's folders: by names alone, since there may be a million files."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from data.errors import InputError

# libsndfile decodes none of the second line: they are found all the same, and counted as unreadable
AUDIO = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff"}
AUDIO |= {".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr"}
PEEK = 1000  # entries that a look at a folder takes: 1 ms; all of a million take half a second


def is_audio(name: str) -> bool:
    """Tell by its suffix whether a file holds audio."""
    return os.path.splitext(name)[1].lower() in AUDIO


def peek(folder: Path) -> list[str]:
    """Return some of a folder's names, without hidden ones; none where there is no folder."""
    return [entry.name for entry in islice(_entries(folder), PEEK) if entry.name[0] != "."]


def peek_folders(folder: Path) -> list[Path]:
    """Return the folders among what peek() returns."""
    return [Path(entry.path) for entry in islice(_entries(folder), PEEK) if _is_folder(entry)]


def holds(folder: Path, *suffixes: str) -> bool:
    """Tell whether a folder has a file with such a suffix: of a million, half a second."""
    return any(entry.name.endswith(suffixes) for entry in _entries(folder))


def subfolders(folder: Path) -> list[str]:
    """Return the names of a folder's folders in order; none where there is no folder."""
    return sorted(entry.name for entry in _entries(folder) if _is_folder(entry))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from entries


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.name[0] != "." and entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split.

    Raises:
        InputError: there is none; names those there are.
    """
    folder = root / split
    if not folder.is_dir():
        known = ", ".join(subfolders(root)) or "none"
        raise InputError(f"{folder}: no such folder; splits of {root}: {known}")
    return folder


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and those below it, each with the names of its files, in order.

    Hidden files are left out: .DS_Store, and ._a.wav, which is no audio.

    Raises:
        InputError: a folder on the way cannot be read, or is a link, which could lead out, or round
            in a circle.
    """
    for place, names, files in os.walk(folder, onerror=_refuse):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in names:
            if os.path.islink(os.path.join(place, name)):
                raise InputError(
                    f"{os.path.join(place, name)}: a link to a folder, which is not followed: "
                    "move the folder itself there, or remove the link"
                )
        yield Path(place), sorted(name for name in files if not name.startswith("."))


def _refuse(error: OSError) -> None:
    """Stop where os.walk() would pass over a folder in silence."""
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
