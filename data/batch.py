"""What flows from the plan to the model: positions, shapes, and padded batches."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from data.log_mel import FRAMES_PER_SECOND
from data.utterance import Drop

IGNORE = -100  # label of a position that carries no loss


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
