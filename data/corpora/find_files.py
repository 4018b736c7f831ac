"""List a corpus's folders by names alone, since they may hold a million files."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from data.errors import InputError

# libsndfile cannot decode the second line's; they are listed, and counted as unreadable
AUDIO = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff"}
AUDIO |= {".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr"}
PEEK = 1000  # entries that peek() lists, in 1 ms; a million take half a second


def is_audio(name: str) -> bool:
    """Return whether a file name has the suffix of an audio format."""
    return os.path.splitext(name)[1].lower() in AUDIO


def peek(folder: Path) -> list[str]:
    """Return the first PEEK names in a folder, without hidden ones; none if it does not exist."""
    return [entry.name for entry in islice(_entries(folder), PEEK) if entry.name[0] != "."]


def peek_folders(folder: Path) -> list[Path]:
    """Return the folders among what peek() returns."""
    return [Path(entry.path) for entry in islice(_entries(folder), PEEK) if _is_folder(entry)]


def has_suffix(folder: Path, *suffixes: str) -> bool:
    """Return whether a folder has a file with one of the suffixes; a million take half a second."""
    return any(entry.name.endswith(suffixes) for entry in _entries(folder))


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of subfolders; none if the folder does not exist."""
    return sorted(entry.name for entry in _entries(folder) if _is_folder(entry))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from entries


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.name[0] != "." and entry.is_dir()
    except OSError:  # a circular symbolic link
        return False


def split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split.

    Raises:
        InputError: it does not exist.
    """
    folder = root / split
    if not folder.is_dir():
        known = ", ".join(subfolders(root)) or "none"
        raise InputError(f"{folder}: no such folder; splits of {root}: {known}")
    return folder


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and all below it, each with the sorted names of its files.

    Hidden files are left out: .DS_Store, and ._a.wav, which is not audio.

    Raises:
        InputError: a folder cannot be read, or is a symbolic link, which could lead out of the
            corpus or in a circle.
    """
    for place, names, files in os.walk(folder, onerror=_refuse):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in names:
            if os.path.islink(os.path.join(place, name)):
                raise InputError(
                    f"{os.path.join(place, name)}: links to folders are not followed: "
                    "move the folder itself there, or remove the link"
                )
        yield Path(place), sorted(name for name in files if not name.startswith("."))


def _refuse(error: OSError) -> None:
    """Raise an error where os.walk() would silently skip a folder."""
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
