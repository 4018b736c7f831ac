"""Negative log likelihood of references under teacher forcing.

Error rates count wrong hypotheses. This loss measures how probable the references are, and changes
where no hypothesis does.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data.batch import Batch
from data.labels import LabelEncoder
from data.log_mel import CHUNK_SECONDS
from data.screening.filters import SPECIAL
from data.utterance import Utterance
from eval.whisper import Whisper


class ReferenceLoss(NamedTuple):
    """The negative log likelihood of a reference."""

    nll: float  # nats, summed over its tokens
    tokens: int  # targets, special tokens included, the start token excluded


def fits_label(u: Utterance, labels: LabelEncoder) -> bool:
    """Return whether an utterance's reference fits into a label, as in training."""
    fits = 0 < u.tokens <= labels.max_tokens
    return fits and u.seconds <= CHUNK_SECONDS and not SPECIAL.search(u.text)


def mean_loss(losses: Iterable[ReferenceLoss | None]) -> float | None:
    """Return the mean loss in nats per token; None if no reference fits a label."""
    known = [loss for loss in losses if loss]
    return sum(loss.nll for loss in known) / sum(loss.tokens for loss in known) if known else None


@torch.inference_mode()
def reference_losses(whisper: Whisper, batch: Batch, states: Tensor) -> list[ReferenceLoss]:
    """Return the loss of each row's label.

    Args:
        whisper: the model.
        batch: one clip in each row.
        states: encoder output of the batch. Shape: (batch, positions, d_model).
    """
    model = whisper.model
    hidden = model.model.decoder(
        input_ids=batch.decoder_input_ids, encoder_hidden_states=states, use_cache=False
    ).last_hidden_state
    logits = model.proj_out(hidden.flatten(0, 1)[batch.targets])  # (targets, vocabulary)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = nn.functional.cross_entropy(
        logits, batch.labels.flatten()[batch.targets], reduction="none"
    )
    rows = nll.double().cpu().split(batch.tokens)
    return [ReferenceLoss(float(row.sum()), len(row)) for row in rows]
