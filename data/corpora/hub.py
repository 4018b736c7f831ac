"""Hugging Face datasets, from the Hub or a local folder, as map-style sources.

Audio columns are never decoded by `datasets`, whose decoder needs FFmpeg's shared libraries: they
give bytes, or a path, and soundfile reads those.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.errors import InputError
from data.utterance import Utterance

TEXT_COLUMNS = ("sentence", "text", "transcription", "transcript", "raw_transcription")
LANGUAGE_COLUMNS = ("locale", "language", "lang_id")
SPEAKER_COLUMNS = ("client_id", "speaker_id", "speaker")


LOOKS = "dataset_dict.json, dataset_info.json, *.parquet or *.arrow"


def matches(path: Path) -> bool:
    """Tell whether a folder holds what `datasets` wrote or can load."""
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
    return saved or any(path.rglob("*.parquet")) or any(path.rglob("*.arrow"))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the rows of a split, with texts; the audio is fetched row by row later.

    Raises:
        InputError: the dataset, the split or a column is missing.
    """
    locator = {
        "name": corpus,
        "subset": config.subset,
        "split": split,
        "revision": config.revision,
        "column": config.audio_column,
    }
    rows = _open(json.dumps(locator))
    text = _text_column(config, corpus, rows)
    language = _first(LANGUAGE_COLUMNS, rows)
    speaker = _first(SPEAKER_COLUMNS, rows)
    wanted = [column for column in (text, language, speaker) if column]
    for row, values in enumerate(rows.select_columns(wanted)):
        yield Utterance(
            id=f"{Path(corpus).name}/{split}/{row}",
            audio="hub:" + json.dumps({**locator, "row": row}),
            text=(values[text] or "").strip(),
            language=str(values[language]).split("-")[0].lower() if language else None,
            speaker=str(values[speaker]) if speaker else None,
        )


def fetch(locator: dict[str, Any]) -> bytes:
    """Return the encoded audio of one row.

    Raises:
        OSError: the row has neither bytes nor a file that can be read.
    """
    split = {key: value for key, value in locator.items() if key != "row"}
    audio = _open(json.dumps(split))[locator["row"]][locator["column"]]
    if audio is None or (audio["bytes"] is None and audio["path"] is None):
        raise OSError("the row holds no audio")
    if audio["bytes"] is not None:
        return bytes(audio["bytes"])
    return Path(audio["path"]).read_bytes()


@lru_cache(maxsize=8)
def _open(locator: str) -> Any:
    """Open a split once a process; its table is memory-mapped."""
    import datasets

    at = json.loads(locator)
    folder = Path(at["name"])
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded = datasets.load_from_disk(str(folder))
            if not isinstance(loaded, datasets.DatasetDict):  # one split, train unless it says so
                loaded = {str(loaded.split or "train"): loaded}
            if at["split"] not in loaded:
                raise ValueError(f"it has {', '.join(loaded)}")
            rows = loaded[at["split"]]
        else:
            rows = datasets.load_dataset(
                at["name"], at["subset"], split=at["split"], revision=at["revision"]
            )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{at['name']}: split {at['split']!r} cannot be loaded: {reason}"
        ) from error
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


def _text_column(config: DataConfig, name: str, rows: Any) -> str:
    candidates = TEXT_COLUMNS if config.text_column == "auto" else (config.text_column,)
    column = _first(candidates, rows)
    if column is None:
        raise InputError(
            f"{name}: no column {' or '.join(candidates)} of texts; "
            f"set data.text_column to one of {rows.column_names}"
        )
    return column


def _first(candidates: tuple[str, ...], rows: Any) -> str | None:
    """Return the first column that is there and holds text, not a class number."""
    for column in candidates:
        kind = getattr(rows.features.get(column), "dtype", "")
        if kind in ("string", "large_string"):  # large: as pandas 3 and polars write them
            return column
    return None
