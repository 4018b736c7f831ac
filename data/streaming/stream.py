"""A dataset of the Hub, or in a folder, read while it arrives: row after row, without an end."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from data.audio.hf_rows import open_stream
from data.config import DataConfig
from data.corpora import NO_CORPUS, layout_of, webdataset
from data.corpora import hf_datasets as hub
from data.corpora.text_tables import NO_CHARACTER
from data.errors import InputError, disk_failed
from data.utterance import Utterance

JSON, TEXT = "json", "txt"  # columns that `datasets` makes of KEY.json and KEY.txt in a tar shard


class StreamPosition(NamedTuple):
    """Where a row lies in a stream."""

    epoch: int = 0
    shard: int = 0  # counted in the epoch's order
    row: int = 0  # of the shard


class StreamRow(NamedTuple):
    """A row of a stream."""

    utterance: Utterance  # without its audio
    audio: bytes  # encoded
    place: StreamPosition


class Stream:
    """The rows of a split, shard after shard; each epoch has an order of shards of its own.

    A place is three numbers, and not what `datasets` gives as state_dict(): that holds a shard and
    a row as well, in a form that changes with the version, and going on from it reads the shard
    from its beginning too.
    """

    def __init__(self, config: DataConfig, seed: int, revision: str | None) -> None:
        """Open the training split.

        Args:
            config: names the corpus, the split and the columns.
            seed: of the order of shards.
            revision: commit of a dataset from the Hub; None: the newest.

        Raises:
            InputError: it is missing, or cannot be streamed.
        """
        if not config.corpus:
            raise InputError(NO_CORPUS)
        (self._source,) = config.sources
        self._split = config.train_split
        if layout_of(self._source) not in (hub, webdataset):
            raise InputError(
                f"{self._source.name}: data.streaming reads datasets of the Hub, and folders of "
                "parquet, arrow or tar files: set data.streaming=false"
            )
        usual = webdataset.AUDIO if config.audio_column == "audio" else ()
        request = {
            "name": self._source.name,
            "subset": config.subset,
            "split": self._split,
            "files": hub.files_of(config, self._split),
            "revision": revision,
            "columns": (config.audio_column, *usual),
        }
        self._rows, self._audio, self.revision = open_stream(request)
        inner = self._rows.features.get(JSON)
        self._inner = inner if isinstance(inner, dict) else {}
        self._features = {**self._inner, **self._rows.features}
        if TEXT in self._features and config.text_column == "auto":
            config = replace(config, text_column=TEXT)
        self._columns = hub.columns_of(config, self._source.name, self._features)
        self._seed = seed

    def rows(self, start: StreamPosition) -> Iterator[StreamRow]:
        """Yield rows from a place on, epoch after epoch, for ever.

        Raises:
            InputError: there are none, or a shard cannot be read.
        """
        yield from self._epoch(start)
        for epoch in count(start.epoch + 1):
            before = None
            for sample in self._epoch(StreamPosition(epoch)):
                yield sample
                before = sample.place
            if before is None:
                raise InputError(f"{self._source.name}: split {self._split!r} is empty")

    def _epoch(self, start: StreamPosition) -> Iterator[StreamRow]:
        shards = int(self._rows.num_shards)
        order = random.Random(f"{self._seed} {start.epoch} shards").sample(range(shards), shards)
        for place in range(start.shard, shards):
            first = start.row if place == start.shard else 0
            for row, values in self._shard(order[place], first):
                at = StreamPosition(start.epoch, place, row)
                yield StreamRow(self._utterance(order[place], row, values), self._bytes(values), at)

    def _shard(self, number: int, first: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield the rows of a shard from one on, with their numbers."""
        shard = self._rows.shard(num_shards=self._rows.num_shards, index=number)
        row = first
        try:
            for row, values in enumerate(islice(shard, first, None), first):
                yield row, values
        except Exception as error:  # pyarrow, tarfile, json and the network each have their own
            if disk_failed(error):
                raise
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise InputError(
                f"{self._source.name}: shard {number} of split {self._split!r} cannot be read "
                f"after row {row}: {reason}; mend it, or wait for the network, and go on with "
                "--resume=auto"
            ) from error

    def _utterance(self, shard: int, row: int, values: Mapping[str, Any]) -> Utterance:
        inner = dict.fromkeys(self._inner) | (values[JSON] or {}) if self._inner else {}
        said = hub.said(self._columns, self._features, {**inner, **values})
        said = {k: v and NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", v) for k, v in said.items()}
        said["language"] = self._source.language or said["language"]
        return Utterance(
            id=f"{Path(self._source.name).name}/{self._split}/{shard}-{row}",
            audio="",
            corpus=self._source.name,
            task=self._source.task,
            **said,
        )

    def _bytes(self, values: Mapping[str, Any]) -> bytes:
        """Return a row's audio; none where there is none, which no decoder can read.

        Raises:
            InputError: it lies in a file of its own.
        """
        audio = values[self._audio] or {"bytes": None, "path": None}
        if audio["bytes"] is None and audio["path"] is not None:
            raise InputError(
                f"{self._source.name}: rows name files, such as {audio['path']!r}, instead of "
                "holding audio: set data.streaming=false"
            )
        return audio["bytes"] or b""
