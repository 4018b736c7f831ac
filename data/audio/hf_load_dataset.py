"""Open a split of a Hugging Face dataset, from the Hub or a local folder, or stream it.

`datasets` takes a second to import, so functions import it where it is needed.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import InputError

COMMIT = re.compile("[0-9a-f]{40}")
SAVED_FILES = ("dataset_dict.json", "state.json")  # written by Dataset.save_to_disk()


class StreamedSplit(NamedTuple):
    """A split that is streamed."""

    rows: Any  # an IterableDataset in shards
    column: str  # of the audio, with bytes and path
    commit: str | None  # on the Hub; None for a local folder


def fetch(locator: dict[str, Any]) -> bytes:
    """Return the encoded audio of a row.

    Raises:
        OSError: the row has neither bytes nor a file that can be read.
    """
    split = {key: value for key, value in locator.items() if key != "row"}
    audio = open_split(json.dumps(split))[locator["row"]][locator["column"]]
    if audio is None or (audio["bytes"] is None and audio["path"] is None):
        raise OSError("the row has no audio")
    if audio["bytes"] is not None:
        return bytes(audio["bytes"])
    return Path(audio["path"]).read_bytes()


@cache  # unlimited: a split is a memory map, and loading it again takes a second
def open_split(locator: str) -> Any:
    """Open a split; cached per process.

    Args:
        locator: JSON of name, subset, split, files, revision and the audio column.

    Raises:
        InputError: the dataset, the split or the column is missing.
    """
    import datasets

    dataset = json.loads(locator)
    rows = _load(dataset, _load_split)
    _refuse_other_commit(dataset, rows)
    if dataset["column"] not in rows.column_names:
        raise _no_column(dataset["name"], dataset["column"], rows)
    try:
        return rows.cast_column(dataset["column"], datasets.Audio(decode=False))
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_audio(dataset["name"], dataset["column"], rows) from error


def open_stream(dataset: dict[str, Any]) -> StreamedSplit:
    """Open a split for streaming; nothing is stored on disk.

    Args:
        dataset: name, subset, split, files and revision; and columns, candidates for the audio
            column, of which the first existing one is used.

    Raises:
        InputError: the dataset, the split or the column is missing, or cannot be streamed.
    """
    from datasets import Audio, Value

    rows, commit = _load(dataset, _stream_split)
    if rows.features is None:
        raise InputError(
            f"{dataset['name']}: its columns are only known after reading all of it, as with CSV: "
            "set data.streaming=false, or convert it to parquet"
        )
    column = next((name for name in dataset["columns"] if name in rows.features), None)
    if column is None:
        raise _no_column(dataset["name"], dataset["columns"][0], rows)
    kind = rows.features[column]
    if not isinstance(kind, Audio) and not (isinstance(kind, dict) and "bytes" in kind):
        raise _no_audio(dataset["name"], column, rows)
    # Audio(decode=False) would need torchcodec for tar shards, though nothing is decoded
    plain = {"bytes": Value("binary"), "path": Value("string")}
    return StreamedSplit(rows.cast_column(column, plain), column, commit)


def _no_column(name: str, column: str, rows: Any) -> InputError:
    return InputError(
        f"{name}: no column {column!r}; set data.audio_column to one of {rows.column_names}"
    )


def _no_audio(name: str, column: str, rows: Any) -> InputError:
    return InputError(
        f"{name}: column {column!r} holds no audio; "
        f"set data.audio_column to another of {rows.column_names}"
    )


def _load(dataset: dict[str, Any], load: Callable[[dict[str, Any], str], Any]) -> Any:
    """Load a split.

    Raises:
        InputError: it cannot be loaded.
    """
    import datasets

    try:
        return _load_either(dataset, load)
    except LookupError as error:  # `datasets` raises it if there is no first row or file
        raise _not_loaded(dataset, "it is empty") from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _not_loaded(dataset, str(error).strip().split("\n")[0]) from error


def _not_loaded(dataset: dict[str, Any], reason: str) -> InputError:
    return InputError(f"{dataset['name']}: split {dataset['split']!r} cannot be loaded: {reason}")


def _load_either(dataset: dict[str, Any], load: Callable[[dict[str, Any], str], Any]) -> Any:
    """Load a split; for dev also try validation, as `datasets` calls files named dev."""
    try:
        return load(dataset, dataset["split"])
    except ValueError as error:
        if dataset["split"] != "dev":
            raise
        try:
            return load(dataset, "validation")
        except ValueError:
            raise error from None


def _load_split(dataset: dict[str, Any], split: str) -> Any:
    import datasets

    if _is_saved(dataset):
        return _saved_split(dataset, split)
    return datasets.load_dataset(split=split, **_load_arguments(dataset, split))


def _stream_split(dataset: dict[str, Any], split: str) -> tuple[Any, str | None]:
    import datasets

    if _is_saved(dataset):
        rows = _saved_split(dataset, split)
        shards = max(1, min(len(rows.cache_files), len(rows)))
        return rows.to_iterable_dataset(num_shards=shards), None
    builder = datasets.load_dataset_builder(**_load_arguments(dataset, split))
    commit = builder.hash if COMMIT.fullmatch(builder.hash or "") else None
    return builder.as_streaming_dataset(split=split), commit


def _load_arguments(dataset: dict[str, Any], split: str) -> dict[str, Any]:
    """Return the arguments of datasets.load_dataset()."""
    return {
        "path": dataset["name"],
        "name": dataset["subset"],
        "data_files": {split: dataset["files"]} if dataset.get("files") else None,
        "revision": dataset["revision"],
    }


def _is_saved(dataset: dict[str, Any]) -> bool:
    folder = Path(dataset["name"])
    return not dataset.get("files") and any((folder / name).is_file() for name in SAVED_FILES)


def _saved_split(dataset: dict[str, Any], split: str) -> Any:
    import datasets

    loaded = datasets.load_from_disk(dataset["name"])
    if not isinstance(loaded, datasets.DatasetDict):  # a single split: train, unless it has a name
        loaded = {str(loaded.split or "train"): loaded}
    if split not in loaded:
        raise ValueError(f"it has {', '.join(loaded)}")
    return loaded[split]


def commit_of(rows: Any) -> str | None:
    """Return the commit of a dataset from the Hub, which is the name of its folder in the cache."""
    folders = (Path(file["filename"]).parent.name for file in rows.cache_files)
    return next((name for name in folders if COMMIT.fullmatch(name)), None)


def _refuse_other_commit(dataset: dict[str, Any], rows: Any) -> None:
    """Raise an error if offline `datasets` loaded its newest cached commit instead of the given."""
    cached, wanted = commit_of(rows), dataset["revision"]
    if wanted and cached and COMMIT.fullmatch(wanted) and wanted != cached:
        raise InputError(
            f"{dataset['name']}: commit {cached} is in the cache, not {wanted}: connect to the Hub "
            "once, or set data.revision to the cached commit"
        )
