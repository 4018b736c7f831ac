"""Utterances and batches: what is written, and what moves."""

import torch

from data.batch import Batch, Position
from data.utterance import Utterance


def test_an_utterance_is_written_without_what_is_not_set() -> None:
    u = Utterance(id="a", audio="/a.mp3", text="")
    assert u.to_json() == {"id": "a", "audio": "/a.mp3", "text": ""}
    full = Utterance(
        id="a", audio="/a", text="t", seconds=1.5, language="en", speaker="s", start=0.5, end=2.0
    )
    assert Utterance(**full.to_json()) == full


def test_a_batch_moves_its_tensors_and_nothing_else() -> None:
    batch = Batch(
        ids=["a"],
        languages=["en"],
        tasks=["transcribe"],
        features=torch.zeros(1, 80, 16),
        decoder_input_ids=torch.zeros(1, 3, dtype=torch.long),
        labels=torch.zeros(1, 3, dtype=torch.long),
        targets=torch.arange(3),
        seconds=[0.16],
        tokens=[3],
        position=Position(0, 0),
        next_position=Position(0, 1),
        is_last=True,
    )
    assert batch.to(torch.device("meta")) is batch
    tensors = (batch.features, batch.decoder_input_ids, batch.labels)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert batch.ids == ["a"]
