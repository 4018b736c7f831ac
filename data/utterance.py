"""The words that everyone shares: what flows from a corpus to the model."""

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.features import FRAMES_PER_SECOND

IGNORE = -100  # label of a position that carries no loss


@dataclass(kw_only=True, slots=True)
class Utterance:
    """One spoken sentence: where its audio lies and what is said in it.

    Not frozen: it is filled in on its way to the manifest, where a copy would cost 4 microseconds,
    of each of millions.
    """

    id: str  # unique within a split
    # an absolute path; a row of a dataset: hub:{"name": …, "row": …}; or a file in an archive:
    audio: str  # tar:{"path": …, "name": …, "offset": …, "size": …}
    text: str
    seconds: float = 0.0  # 0 until the scan knows
    language: str | None = None  # Whisper's code: en, zh, …
    task: str = "transcribe"  # or translate: the text is English
    speaker: str | None = None
    corpus: str = ""  # as data.corpus names it
    start: float = 0.0  # seconds into the file
    end: float | None = None  # seconds into the file; None: to its end
    tokens: int = 0  # label length, special tokens included
    prompt: str = ""  # what was said before it in the same recording
    prompt_tokens: int = 0  # its length
    rules: tuple[str, ...] = ()  # that changed its transcript, by name
    age: str | None = None  # of the speaker, as the corpus says it: twenties
    gender: str | None = None  # as the corpus says it
    accent: str | None = None  # as the corpus says it
    fault: str = ""  # why its reader says that it cannot be used: the reason of its drop

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: v for name, default in FIELDS if (v := getattr(self, name)) != default}


FIELDS = [(field.name, field.default) for field in fields(Utterance)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """An utterance that is not trained on or scored, and why."""

    split: str
    id: str
    audio: str
    reason: str  # one of a few words: counted
    detail: str = ""  # this case's figures or message


class Position(NamedTuple):
    """The next update to make: a place in the plan."""

    epoch: int = 0
    update: int = 0


class Shape(NamedTuple):
    """What a pass holds, padded."""

    rows: int
    frames: int
    tokens: int

    @property
    def seconds(self) -> float:
        """Return the padded audio that it holds."""
        return self.rows * self.frames / FRAMES_PER_SECOND


class Mask(NamedTuple):
    """A part of a row's features that is not heard."""

    row: int
    channels: slice
    frames: slice


def target_positions(labels: Tensor) -> Tensor:
    """Return where the targets are in labels, row by row.

    Shapes: (batch, tokens) → (targets,), positions in the flattened labels. On a CUDA tensor
    nonzero() synchronizes with the host, so batches compute it on the CPU.
    """
    return (labels.flatten() != IGNORE).nonzero().squeeze(1)


@dataclass(kw_only=True, slots=True)
class Batch:
    """One forward pass of one process."""

    ids: list[str]  # of its clips
    languages: list[str]  # of its rows
    tasks: list[str]  # of its rows
    features: Tensor  # (batch, n_mels, frames) float32; waveforms on their way to a GPU
    decoder_input_ids: Tensor  # (batch, tokens) int64
    labels: Tensor  # (batch, tokens) int64, IGNORE where padded or weightless
    targets: Tensor  # (targets,) int64: target_positions(labels), computed on the CPU
    seconds: list[float]  # of real audio in each clip, 0 for one without weight
    tokens: list[int]  # target tokens of each clip, 0 for one without weight
    at: Position  # of this batch's update in the plan
    after: Position  # where training goes on after it
    last: bool  # the last pass of its update
    repair: bool = False  # whether the decoder shall make of it what it makes of 30 s
    masks: list[Mask] = field(default_factory=list)  # parts of the features that are not heard
    drops: list[Drop] = field(default_factory=list)  # clips that failed here
    work: dict[str, float] = field(default_factory=dict)  # seconds a worker spent, by stage

    @property
    def shape(self) -> Shape:
        """Return what it holds, padded."""
        rows, tokens = self.labels.shape
        return Shape(rows, self.features.shape[-1], tokens)

    def to(self, device: torch.device) -> "Batch":
        """Move the tensors to a device, without waiting where the memory is pinned."""
        self.features = self.features.to(device, non_blocking=True)
        self.decoder_input_ids = self.decoder_input_ids.to(device, non_blocking=True)
        self.labels = self.labels.to(device, non_blocking=True)
        self.targets = self.targets.to(device, non_blocking=True)
        return self

    def pin_memory(self) -> "Batch":
        """Pin the tensors for fast copies; called by the DataLoader."""
        self.features = self.features.pin_memory()
        self.decoder_input_ids = self.decoder_input_ids.pin_memory()
        self.labels = self.labels.pin_memory()
        self.targets = self.targets.pin_memory()
        return self
