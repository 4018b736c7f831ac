"""Stream: the rows of a streamed dataset, from any position, epoch after epoch."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from data.audio.hf_load_dataset import open_stream
from data.config import DataConfig
from data.corpora import NO_CORPUS, layout_of, webdataset
from data.corpora import hf_datasets as hub
from data.corpora.text_tables import NO_CHARACTER
from data.errors import InputError, is_disk_error
from data.utterance import Utterance

JSON, TEXT = "json", "txt"  # columns that `datasets` makes of KEY.json and KEY.txt in a tar shard


class StreamPosition(NamedTuple):
    """The position of a row in a stream."""

    epoch: int = 0
    shard: int = 0  # in the epoch's order
    row: int = 0  # within the shard


class StreamRow(NamedTuple):
    """A row of a stream."""

    utterance: Utterance  # without its audio
    audio: bytes  # encoded
    position: StreamPosition


class Stream:
    """The rows of a split, shard after shard; the order of shards differs between epochs.

    A position is three numbers, and not the state_dict() of `datasets`: that has a shard and a row
    too, but its format changes between versions, and resuming from it also reads the shard from its
    beginning.
    """

    def __init__(self, config: DataConfig, seed: int, revision: str | None) -> None:
        """Open the training split.

        Args:
            config: has the corpus, the split and the columns.
            seed: of the order of shards.
            revision: commit of a dataset on the Hub. None: the newest.

        Raises:
            InputError: the split is missing, or cannot be streamed.
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
        """Yield rows from a position on, epoch after epoch, endlessly.

        Raises:
            InputError: there are none, or a shard cannot be read.
        """
        yield from self._epoch(start)
        for epoch in count(start.epoch + 1):
            is_empty = True
            for row in self._epoch(StreamPosition(epoch)):
                yield row
                is_empty = False
            if is_empty:
                raise InputError(f"{self._source.name}: split {self._split!r} is empty")

    def _epoch(self, start: StreamPosition) -> Iterator[StreamRow]:
        shards = int(self._rows.num_shards)
        order = random.Random(f"{self._seed} {start.epoch} shards").sample(range(shards), shards)
        for shard_index in range(start.shard, shards):
            first = start.row if shard_index == start.shard else 0
            for row, values in self._shard(order[shard_index], first):
                at = StreamPosition(start.epoch, shard_index, row)
                yield StreamRow(
                    self._utterance(order[shard_index], row, values), self._bytes(values), at
                )

    def _shard(self, number: int, first: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield the rows of a shard with their numbers, beginning at a row."""
        shard = self._rows.shard(num_shards=self._rows.num_shards, index=number)
        row = first
        try:
            for row, values in enumerate(islice(shard, first, None), first):
                yield row, values
        except Exception as error:  # pyarrow, tarfile, json and the network raise many types
            if is_disk_error(error):
                raise
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise InputError(
                f"{self._source.name}: shard {number} of split {self._split!r} cannot be read "
                f"after row {row}: {reason}; repair it, or wait for the network, and continue with "
                "--resume=auto"
            ) from error

    def _utterance(self, shard: int, row: int, values: Mapping[str, Any]) -> Utterance:
        inner = dict.fromkeys(self._inner) | (values[JSON] or {}) if self._inner else {}
        utterance_fields = hub.utterance_fields(self._columns, self._features, {**inner, **values})
        utterance_fields = {
            k: v and NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", v)
            for k, v in utterance_fields.items()
        }
        utterance_fields["language"] = self._source.language or utterance_fields["language"]
        return Utterance(
            id=f"{Path(self._source.name).name}/{self._split}/{shard}-{row}",
            audio="",
            corpus=self._source.name,
            task=self._source.task,
            **utterance_fields,
        )

    def _bytes(self, values: Mapping[str, Any]) -> bytes:
        """Return a row's encoded audio; empty, and so unreadable, if it has none.

        Raises:
            InputError: the row has only the path of a file.
        """
        audio = values[self._audio] or {"bytes": None, "path": None}
        if audio["bytes"] is None and audio["path"] is not None:
            raise InputError(
                f"{self._source.name}: rows have paths of files, such as {audio['path']!r}, but no "
                "audio: set data.streaming=false"
            )
        return audio["bytes"] or b""
