"""Audio that a person names: files, folders and patterns, each once, in order."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.corpora.folders import is_audio, walk
from data.errors import InputError


class Source(NamedTuple):
    """A file that is to be transcribed."""

    path: Path
    name: str  # its path below the folder that was named, without a suffix: of what is written


class Failure(NamedTuple):
    """What could not be transcribed, and why."""

    named: str
    reason: str


def find(named: Sequence[str]) -> tuple[list[Source], list[Failure]]:
    """Return the files that names stand for, and the names that stand for none."""
    found: dict[Path, Source] = {}
    failures = []
    for name in named:
        sources = list(_of(name))
        if not sources:
            failures.append(Failure(name, _why(Path(name))))
        for source in sources:
            found.setdefault(source.path.resolve(), source)
    return list(found.values()), failures


def refuse_clashes(sources: Sequence[Source]) -> None:
    """Refuse to write two texts to one file.

    Raises:
        InputError: two sources have one name.
    """
    seen: dict[str, Path] = {}
    for source in sources:
        other = seen.setdefault(source.name, source.path)
        if other != source.path:
            raise InputError(
                f"{other} and {source.path} would both be written as {source.name}: transcribe "
                "them into two folders, or name the folder that holds both"
            )


def _of(name: str) -> Iterator[Source]:
    path = Path(name)
    if path.is_dir():
        for place, files in walk(path):
            for file in filter(is_audio, files):
                below = (place / file).relative_to(path)
                yield Source(place / file, str(below.with_suffix("")))
    elif path.exists() or not glob.has_magic(name):
        if path.exists():
            yield Source(path, path.stem)
    else:
        matches = (Path(match) for match in sorted(glob.glob(name, recursive=True)))
        yield from (Source(match, match.stem) for match in matches if match.is_file())


def _why(path: Path) -> str:
    if path.is_dir():
        return "no audio in this folder"
    return "no file matches" if glob.has_magic(str(path)) else "no such file"
