"""A dataset of tones in shards, as on the Hub: parquet, arrow and tar files."""

import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

SHARDS, ROWS = 3, 9  # rows of each shard
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
WORDS = ("zero", "one", "two", "three", "four", "five")
BROKEN = {"bytes": b"no audio", "path": "broken.flac"}


def seconds_of(number: int) -> float:
    """Return how long a clip is."""
    return 0.5 + 0.3 * (number % 7)


def tone(number: int) -> bytes:
    """Return a FLAC; a number has a pitch of its own."""
    time = np.arange(round(16_000 * seconds_of(number))) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (200 + 20 * number) * time)
    file = io.BytesIO()
    soundfile.write(file, tone, 16_000, format="FLAC")
    return file.getvalue()


def text_of(number: int) -> str:
    """Return the transcript of a clip."""
    return f"{WORDS[number // 5]} {WORDS[number % 5]}"


def numbers(shard: int) -> range:
    """Return the clips of a shard."""
    return range(shard * ROWS, (shard + 1) * ROWS)


def write_parquet(folder: Path, audio: Mapping[int, Any] | None = None) -> Path:
    """Write parquet files of several row groups each, some clips with another audio column."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        held = [
            (audio or {}).get(n, {"bytes": tone(n), "path": f"{n}.flac"}) for n in numbers(shard)
        ]
        columns = {
            "audio": pa.array(held, AUDIO),
            "text": [text_of(n) for n in numbers(shard)],
            "language": ["en"] * ROWS,
        }
        path = folder / f"train-{shard:05d}-of-{SHARDS:05d}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=4)
    return folder


def write_tars(folder: Path, kind: str = "json", texts: Mapping[int, str] | None = None) -> Path:
    """Write tar files as WebDataset has them, texts in KEY.json or in KEY.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w") as tar:
            for number in numbers(shard):
                text = (texts or {}).get(number, text_of(number))
                content = json.dumps({"text": text, "language": "en"}) if kind == "json" else text
                _add(tar, f"{number:06d}.{kind}", content.encode())
                _add(tar, f"{number:06d}.flac", tone(number))
    return folder


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))


def write_saved(folder: Path) -> Path:
    """Write the same files as save_to_disk()."""
    rows = [
        {"audio": {"bytes": tone(n), "path": f"{n}.flac"}, "text": text_of(n), "language": "en"}
        for shard in range(SHARDS)
        for n in numbers(shard)
    ]
    datasets.Dataset.from_list(rows).save_to_disk(folder, num_shards=SHARDS)
    return folder


def write_arrow(folder: Path) -> Path:
    """Write arrow files only, without the other files of save_to_disk()."""
    saved = write_saved(folder.with_name("saved"))
    folder.mkdir()
    for shard, path in enumerate(sorted(saved.glob("*.arrow"))):
        shutil.copy(path, folder / f"train-{shard:05d}.arrow")
    return folder
