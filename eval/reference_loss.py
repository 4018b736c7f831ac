"""What references cost a model: their negative log likelihood, each token after those before it.

Error counts say how often the best guess is wrong; this says how sure the model is of what was
said, and moves where no guess does.
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


class Likelihood(NamedTuple):
    """What a reference costs."""

    nll: float  # nats, summed over its tokens
    tokens: int  # targets: special ones among them, the start token not


def has_label(u: Utterance, encoder: LabelEncoder) -> bool:
    """Tell whether a label can hold an utterance's reference, as one of training can."""
    fits = 0 < u.tokens <= encoder.max_tokens
    return fits and u.seconds <= CHUNK_SECONDS and not SPECIAL.search(u.text)


def mean_loss(costs: Iterable[Likelihood | None]) -> float | None:
    """Return nats a token, over the references that labels can hold; None where there is none."""
    known = [cost for cost in costs if cost]
    return sum(cost.nll for cost in known) / sum(cost.tokens for cost in known) if known else None


@torch.inference_mode()
def likelihoods(whisper: Whisper, batch: Batch, states: Tensor) -> list[Likelihood]:
    """Return what each row's labels cost.

    Args:
        whisper: the model.
        batch: rows of one clip each.
        states: what the encoder made of it. Shape: (batch, positions, d_model).
    """
    model = whisper.model
    found = model.model.decoder(
        input_ids=batch.decoder_input_ids, encoder_hidden_states=states, use_cache=False
    ).last_hidden_state
    logits = model.proj_out(found.flatten(0, 1)[batch.targets])  # (targets, vocabulary)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = nn.functional.cross_entropy(
        logits, batch.labels.flatten()[batch.targets], reduction="none"
    )
    rows = nll.double().cpu().split(batch.tokens)
    return [Likelihood(float(row.sum()), len(row)) for row in rows]
