"""Batch: one padded forward pass, with its position in the plan, its shape and its masks."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from data.log_mel import FRAMES_PER_SECOND
from data.utterance import Drop

IGNORE_INDEX = -100  # label that the loss ignores


class Position(NamedTuple):
    """An update's position in the plan: epoch, and update within the epoch."""

    epoch: int = 0
    update: int = 0


class Shape(NamedTuple):
    """The padded shape of a forward pass."""

    rows: int
    frames: int
    tokens: int

    @property
    def seconds(self) -> float:
        """Return the padded audio in all rows, in seconds."""
        return self.rows * self.frames / FRAMES_PER_SECOND


class Mask(NamedTuple):
    """A masked region of a row's features (SpecAugment)."""

    row: int
    channels: slice
    frames: slice


def target_positions(labels: Tensor) -> Tensor:
    """Return the positions of target tokens in the flattened labels.

    Shapes: (batch, tokens) → (targets,). On a CUDA tensor nonzero() synchronizes with the host, so
    batches compute it on the CPU.
    """
    return (labels.flatten() != IGNORE_INDEX).nonzero().squeeze(1)


@dataclass(kw_only=True, slots=True)
class Batch:
    """One forward pass of one process."""

    ids: list[str]  # one per clip
    languages: list[str]  # one per row
    tasks: list[str]  # one per row
    features: Tensor  # (batch, n_mels, frames) float32; waveforms until BatchPreparer.prepare()
    decoder_input_ids: Tensor  # (batch, tokens) int64
    labels: Tensor  # (batch, tokens) int64; IGNORE_INDEX where padded or without loss
    targets: Tensor  # (targets,) int64: target_positions(labels), computed on the CPU
    seconds: list[float]  # unpadded audio of each clip; 0 for a clip without loss
    tokens: list[int]  # target tokens of each clip; 0 for a clip without loss
    position: Position  # of this batch's update in the plan
    next_position: Position  # where training continues after this update
    is_last: bool  # whether this is the last forward pass of its update
    masks: list[Mask] = field(default_factory=list)  # masked regions of the features
    drops: list[Drop] = field(default_factory=list)  # clips that could not be decoded
    worker_seconds: dict[str, float] = field(
        default_factory=dict
    )  # seconds a worker spent, by stage

    @property
    def shape(self) -> Shape:
        """Return the padded shape."""
        rows, tokens = self.labels.shape
        return Shape(rows, self.features.shape[-1], tokens)

    def to(self, device: torch.device) -> "Batch":
        """Move the tensors to a device, asynchronously where their memory is pinned."""
        self.features = self.features.to(device, non_blocking=True)
        self.decoder_input_ids = self.decoder_input_ids.to(device, non_blocking=True)
        self.labels = self.labels.to(device, non_blocking=True)
        self.targets = self.targets.to(device, non_blocking=True)
        return self

    def pin_memory(self) -> "Batch":
        """Pin the tensors' memory for asynchronous copies; called by the DataLoader."""
        self.features = self.features.pin_memory()
        self.decoder_input_ids = self.decoder_input_ids.pin_memory()
        self.labels = self.labels.pin_memory()
        self.targets = self.targets.pin_memory()
        return self
