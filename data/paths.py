"""Paths that a corpus names must stay inside it, links and all."""

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from data.errors import InputError


def inside(root: Path, name: str, source: Path) -> str:
    """Return the absolute path of `name` in `root`, which may itself be a link.

    The file system is asked once a folder, not once a row: 2,000,000 rows of a network disk would
    cost minutes.

    Raises:
        InputError: the name is absolute or climbs out, or a link on the way leads out.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise InputError(
            f"{source}: {name!r} lies outside of {root}: paths in a corpus must stay in it"
        )
    home = str(root.absolute())
    folder, file = home, name
    if "/" in name or name in ("", "."):  # most names are a file's in the folder itself
        folder, file = os.path.split(os.path.join(home, os.path.normpath(name)))
    place = f"{folder}/{file}"
    link = _links(folder).get(file)
    if not (_within(folder, home) if link is None else _holds(_real(home), link)):
        raise InputError(
            f"{source}: {name!r} is a link that leads out of {root}, to {link or _real(folder)}: "
            "copy the audio into the corpus, or name a folder that holds both"
        )
    return place


def _holds(home: str, target: str) -> bool:
    return target == home or target.startswith(os.path.join(home, ""))


@cache
def _within(folder: str, home: str) -> bool:
    return _holds(_real(home), _real(folder))


@cache
def _links(folder: str) -> dict[str, str]:
    """Return the links in a folder, and where they lead; what is no folder has none."""
    try:
        with os.scandir(folder) as entries:
            return {e.name: os.path.realpath(e.path) for e in entries if e.is_symlink()}
    except OSError:
        return {}


@cache
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def refuse_within(folder: Path, corpora: Iterable[str]) -> None:
    """Refuse to write into a corpus.

    Raises:
        InputError: the folder is a corpus's, lies in one, or holds the file that is one.
    """
    place = os.path.realpath(folder)
    for corpus in corpora:
        home = os.path.realpath(corpus)
        beside = os.path.isfile(home) and place == os.path.dirname(home)
        if beside or (os.path.isdir(home) and os.path.commonpath([place, home]) == home):
            raise InputError(
                f"{folder} lies in the corpus {corpus}, which is never written into: "
                "name another folder with --out"
            )


def name_of(corpora: Iterable[str]) -> str:
    """Return a name for a folder of what is found in corpora: zh-TW alone names many."""
    parts = ([part for part in Path(c).absolute().parts if part != os.sep] for c in corpora)
    return "+".join("-".join(each[-2:]) for each in parts)[:100]
