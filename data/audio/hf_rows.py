"""A split of a Hugging Face dataset, from the Hub or a folder: opened once a process, or streamed.

`datasets` takes a second to import: functions do it, for those who have such a corpus.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import InputError

COMMIT = re.compile("[0-9a-f]{40}")
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk() leaves


class Streamed(NamedTuple):
    """A split that is read while it arrives."""

    rows: Any  # in shards, each of which is read from its beginning
    column: str  # of the audio: bytes and path
    commit: str | None  # of the Hub; None for a local folder


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
    rows = _load(at, _load_split)
    _refuse_other_commit(at, rows)
    if at["column"] not in rows.column_names:
        raise _no_column(at["name"], at["column"], rows)
    try:
        return rows.cast_column(at["column"], datasets.Audio(decode=False))
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_audio(at["name"], at["column"], rows) from error


def open_stream(at: dict[str, Any]) -> Streamed:
    """Open a split to be read while it arrives: nothing of it is stored.

    Args:
        at: name, subset, split, files and revision, and the columns that the audio may be in: the
            first that is there counts.

    Raises:
        InputError: the dataset, the split or the column is missing, or cannot be streamed.
    """
    from datasets import Audio, Value

    rows, commit = _load(at, _stream_split)
    if rows.features is None:
        raise InputError(
            f"{at['name']}: which columns it has is known after all of it was read, as with CSV: "
            "set data.streaming=false, or convert it to parquet"
        )
    column = next((name for name in at["columns"] if name in rows.features), None)
    if column is None:
        raise _no_column(at["name"], at["columns"][0], rows)
    kind = rows.features[column]
    if not isinstance(kind, Audio) and not (isinstance(kind, dict) and "bytes" in kind):
        raise _no_audio(at["name"], column, rows)
    # as Audio(decode=False) tar shards would need torchcodec, though it has nothing to do
    plain = {"bytes": Value("binary"), "path": Value("string")}
    return Streamed(rows.cast_column(column, plain), column, commit)


def _no_column(name: str, column: str, rows: Any) -> InputError:
    return InputError(
        f"{name}: no column {column!r}; set data.audio_column to one of {rows.column_names}"
    )


def _no_audio(name: str, column: str, rows: Any) -> InputError:
    return InputError(
        f"{name}: column {column!r} holds no audio; "
        f"set data.audio_column to another of {rows.column_names}"
    )


def _load(at: dict[str, Any], load: Callable[[dict[str, Any], str], Any]) -> Any:
    """Load a split.

    Raises:
        InputError: it cannot be loaded.
    """
    import datasets

    try:
        return _by_either_name(at, load)
    except LookupError as error:  # so `datasets` says that there is no first row, or file
        raise _not_loaded(at, "it holds nothing") from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _not_loaded(at, str(error).strip().split("\n")[0]) from error


def _not_loaded(at: dict[str, Any], reason: str) -> InputError:
    return InputError(f"{at['name']}: split {at['split']!r} cannot be loaded: {reason}")


def _by_either_name(at: dict[str, Any], load: Callable[[dict[str, Any], str], Any]) -> Any:
    """Load a split; files that are named dev are a split called validation to `datasets`."""
    try:
        return load(at, at["split"])
    except ValueError as error:
        if at["split"] != "dev":
            raise
        try:
            return load(at, "validation")
        except ValueError:
            raise error from None


def _load_split(at: dict[str, Any], split: str) -> Any:
    import datasets

    if _is_saved(at):
        return _saved_split(at, split)
    return datasets.load_dataset(split=split, **_request(at, split))


def _stream_split(at: dict[str, Any], split: str) -> tuple[Any, str | None]:
    import datasets

    if _is_saved(at):
        rows = _saved_split(at, split)
        shards = max(1, min(len(rows.cache_files), len(rows)))
        return rows.to_iterable_dataset(num_shards=shards), None
    builder = datasets.load_dataset_builder(**_request(at, split))
    commit = builder.hash if COMMIT.fullmatch(builder.hash or "") else None
    return builder.as_streaming_dataset(split=split), commit


def _request(at: dict[str, Any], split: str) -> dict[str, Any]:
    """Return what `datasets` is asked for."""
    return {
        "path": at["name"],
        "name": at["subset"],
        "data_files": {split: at["files"]} if at.get("files") else None,
        "revision": at["revision"],
    }


def _is_saved(at: dict[str, Any]) -> bool:
    folder = Path(at["name"])
    return not at.get("files") and any((folder / name).is_file() for name in SAVED)


def _saved_split(at: dict[str, Any], split: str) -> Any:
    import datasets

    loaded = datasets.load_from_disk(at["name"])
    if not isinstance(loaded, datasets.DatasetDict):  # one split, train unless it says so
        loaded = {str(loaded.split or "train"): loaded}
    if split not in loaded:
        raise ValueError(f"it has {', '.join(loaded)}")
    return loaded[split]


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
