"""A split of a Hugging Face dataset, from the Hub or a folder: opened once a process.

`datasets` takes a second to import: functions do it, for those who have such a corpus.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from data.errors import InputError

COMMIT = re.compile("[0-9a-f]{40}")


def fetch(locator: dict[str, Any]) -> bytes:
    """Return the encoded audio of one row.

    Raises:
        OSError: the row has neither bytes nor a file that can be read.
    """
    split = {key: value for key, value in locator.items() if key != "row"}
    audio = open_split(json.dumps(split))[locator["row"]][locator["column"]]
    if audio is None or (audio["bytes"] is None and audio["path"] is None):
        raise OSError("the row holds no audio")
    if audio["bytes"] is not None:
        return bytes(audio["bytes"])
    return Path(audio["path"]).read_bytes()


@cache  # without a limit: a split is a memory map, and to load one again takes a second
def open_split(locator: str) -> Any:
    """Open a split once a process.

    Args:
        locator: JSON of name, subset, split, files, revision and the column of the audio.

    Raises:
        InputError: the dataset, the split or the column is missing.
    """
    import datasets

    at = json.loads(locator)
    try:
        rows = _load(at)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{at['name']}: split {at['split']!r} cannot be loaded: {reason}"
        ) from error
    _refuse_other_commit(at, rows)
    if at["column"] not in rows.column_names:
        raise InputError(
            f"{at['name']}: no column {at['column']!r}; "
            f"set data.audio_column to one of {rows.column_names}"
        )
    try:
        return rows.cast_column(at["column"], datasets.Audio(decode=False))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{at['name']}: column {at['column']!r} holds no audio; "
            f"set data.audio_column to another of {rows.column_names}"
        ) from error


def _load(at: dict[str, Any]) -> Any:
    """Load a split; files that are named dev are a split called validation to `datasets`."""
    try:
        return _load_split(at, at["split"])
    except ValueError as error:
        if at["split"] != "dev":
            raise
        try:
            return _load_split(at, "validation")
        except ValueError:
            raise error from None


def _load_split(at: dict[str, Any], split: str) -> Any:
    import datasets

    folder = Path(at["name"])
    files = at.get("files")
    if not files and any((folder / n).is_file() for n in ("dataset_dict.json", "state.json")):
        loaded = datasets.load_from_disk(str(folder))
        if not isinstance(loaded, datasets.DatasetDict):  # one split, train unless it says so
            loaded = {str(loaded.split or "train"): loaded}
        if split not in loaded:
            raise ValueError(f"it has {', '.join(loaded)}")
        return loaded[split]
    return datasets.load_dataset(
        at["name"],
        at["subset"],
        split=split,
        data_files={split: files} if files else None,
        revision=at["revision"],
    )


def commit_of(rows: Any) -> str | None:
    """Return the commit of what came from the Hub: `datasets` names its folder in the cache so."""
    folders = (Path(file["filename"]).parent.name for file in rows.cache_files)
    return next((name for name in folders if COMMIT.fullmatch(name)), None)


def _refuse_other_commit(at: dict[str, Any], rows: Any) -> None:
    """Without a network `datasets` takes the newest that it has, whichever was asked for."""
    found, asked = commit_of(rows), at["revision"]
    if asked and found and COMMIT.fullmatch(asked) and asked != found:
        raise InputError(
            f"{at['name']}: commit {found} is what the cache holds, not {asked}: connect to the "
            "Hub once, or set data.revision to the one that is there"
        )
