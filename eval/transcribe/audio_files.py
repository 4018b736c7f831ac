"""Find audio files by file, folder or glob pattern."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.corpora.find_files import is_audio, walk
from data.errors import InputError


class Source(NamedTuple):
    """An audio file to transcribe."""

    path: Path
    name: str  # of the output: path relative to the named folder, without suffix


class Failure(NamedTuple):
    """A file or pattern that could not be transcribed."""

    name: str
    reason: str


def find_audio(names: Sequence[str]) -> tuple[list[Source], list[Failure]]:
    """Return each audio file once, in order, and the names without any audio file.

    Args:
        names: files, folders and glob patterns.
    """
    sources: dict[Path, Source] = {}
    failures = []
    for name in names:
        matches = list(_expand(name))
        if not matches:
            failures.append(Failure(name, _reason(Path(name))))
        for source in matches:
            sources.setdefault(source.path.resolve(), source)
    return list(sources.values()), failures


def check_output_names(sources: Sequence[Source]) -> None:
    """Check that no two sources would be written to the same file.

    Raises:
        InputError: two sources have the same output name.
    """
    seen: dict[str, Path] = {}
    for source in sources:
        other = seen.setdefault(source.name, source.path)
        if other != source.path:
            raise InputError(
                f"{other} and {source.path} would both be written as {source.name}: transcribe "
                "them into two folders, or name the folder that holds both"
            )


def _expand(name: str) -> Iterator[Source]:
    path = Path(name)
    if path.is_dir():
        for folder, files in walk(path):
            for file in filter(is_audio, files):
                relative = (folder / file).relative_to(path)
                yield Source(folder / file, str(relative.with_suffix("")))
    elif path.exists() or not glob.has_magic(name):
        if path.exists():
            yield Source(path, path.stem)
    else:
        matches = (Path(match) for match in sorted(glob.glob(name, recursive=True)))
        yield from (Source(match, match.stem) for match in matches if match.is_file())


def _reason(path: Path) -> str:
    if path.is_dir():
        return "no audio in this folder"
    return "no file matches" if glob.has_magic(str(path)) else "no such file"
