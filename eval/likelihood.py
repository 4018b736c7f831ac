"""What references cost a model: their negative log likelihood, each token after those before it.

Error counts say how often the best guess is wrong; this says how sure the model is of what was
said, and moves where no guess does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate.utils import gather_object
from torch import nn

from data.features import CHUNK_SECONDS
from data.loader import Stages, labelled_batches
from data.screen import SPECIAL
from data.utterance import IGNORE, Batch, Utterance
from eval.evaluate import Evaluator
from eval.silence import lend, listen
from eval.whisper import Whisper


class Likelihood(NamedTuple):
    """What a reference costs."""

    nll: float  # nats, summed over its tokens
    tokens: int  # targets: special ones among them, the start token not


def likelihoods(
    evaluator: Evaluator, utterances: Sequence[Utterance], *, true_length: bool = False
) -> dict[str, Likelihood]:
    """Return what each reference costs, by id; the same on every process.

    Labels are made as for training. What they cannot hold is left out, and so is longer audio.

    Args:
        evaluator: knows the model, the other processes and how much is computed together.
        utterances: with references.
        true_length: whether the encoder hears clips without padding them to 30 s.
    """
    whisper, model = evaluator.whisper, evaluator.whisper.model
    encoder = whisper.labels()
    fitting = [u for u in utterances if u.seconds <= CHUNK_SECONDS and not SPECIAL.search(u.text)]
    held = [u for u in fitting if 0 < u.tokens <= encoder.max_tokens]
    mine, rounds = evaluator.share(held, true_length=true_length)
    stages = Stages(encoder, whisper.n_mels, evaluator.accelerator.device)
    batches = labelled_batches(held, evaluator.data, stages, mine, true_length=true_length)
    training = model.training
    model.eval()
    if true_length:
        lend(model, listen(model))
    found: list[tuple[str, Likelihood]] = []
    with evaluator.accelerator.autocast(), torch.inference_mode():
        for _ in range(rounds):
            evaluator.beat()
            if batch := next(batches, None):  # others may have one more
                found += zip(batch.ids, _of(whisper, batch), strict=True)
    model.train(training)
    return {name: each for name, each in gather_object(found) if each.tokens}


def _of(whisper: Whisper, batch: Batch) -> list[Likelihood]:
    """Return what each row's labels cost; nothing where the clip failed."""
    model, chosen = whisper.model, batch.labels != IGNORE
    heard = model.model.encoder(batch.features).last_hidden_state  # (batch, positions, d)
    states = model.model.decoder(
        input_ids=batch.decoder_input_ids, encoder_hidden_states=heard, use_cache=False
    ).last_hidden_state
    logits = model.proj_out(states[chosen])  # (targets, vocabulary)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = nn.functional.cross_entropy(logits, batch.labels[chosen], reduction="none")
    rows = nll.double().cpu().split(batch.tokens)
    return [Likelihood(float(row.sum()), len(row)) for row in rows]
