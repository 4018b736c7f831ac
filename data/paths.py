"""Paths that a corpus names must stay inside it."""

from pathlib import Path

from data.errors import InputError


def inside(root: Path, name: str, source: Path) -> str:
    """Return the absolute path of `name` in `root`.

    The check is on the text alone: asking the file system for two million rows costs minutes.

    Raises:
        InputError: the name is absolute or climbs out.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"{source}: {name!r} lies outside of {root}: paths in a corpus must stay in it"
        )
    return str(root.absolute() / path)
