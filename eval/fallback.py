"""Temperature fallback: when a clip is decoded again (section 4.5 of Whisper's paper).

A hypothesis with a high compression ratio is repetitive, and one with a low log-probability is
unsure: the clip is then sampled again at rising temperatures until a hypothesis is neither. An
unsure hypothesis with a high probability of no speech becomes an empty text. transformers does the
same for long audio, and for short audio one clip at a time: in a batch it confuses the no-speech
probabilities of clips, and it needs features instead of an encoder output of true length.
"""

import zlib
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from eval.whisper import Whisper

# defaults of openai/whisper's transcribe.py
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # after greedy or beam search
COMPRESSION_RATIO_THRESHOLD = 2.4  # size of a text over its size after zlib
LOGPROB_THRESHOLD = -1.0  # mean log-probability of a text's tokens
NO_SPEECH_THRESHOLD = 0.6  # probability of the no-speech token
NO_SPEECH_TOKENS = ("<|nospeech|>", "<|nocaptions|>")
# of transformers' generate(), which compresses ids, not texts: 1.35 is its documentation's value
LONG_AUDIO_OPTIONS: dict[str, Any] = {
    "temperature": (0.0, *TEMPERATURES),
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": LOGPROB_THRESHOLD,
    "no_speech_threshold": NO_SPEECH_THRESHOLD,
}


class FallbackDecision(Enum):
    """What to do with a hypothesis."""

    ACCEPT = "accept"
    NO_SPEECH = "no speech"  # replace it by an empty text
    RETRY = "retry"  # sample again at a higher temperature


def fallback_decision(
    whisper: Whisper, states: Tensor, ids: list[int], prefix: int, text: str
) -> FallbackDecision:
    """Apply Whisper's thresholds to a hypothesis.

    Args:
        whisper: the model that decoded it.
        states: encoder output of its clip. Shape: (1, positions, d_model).
        ids: token ids, from the start token to the end token, if there is one.
        prefix: number of ids before the text.
        text: the text of the ids.
    """
    inputs = torch.tensor([ids], device=states.device)
    output = whisper.model(encoder_outputs=(states,), decoder_input_ids=inputs, use_cache=False)
    logits = output.logits[0].float()  # (tokens, vocabulary)
    logprobs = logits[prefix - 1 : -1].log_softmax(-1).gather(-1, inputs[0, prefix:, None])
    logprob = float(logprobs.mean()) if len(logprobs) else 0.0
    sure = logprob >= LOGPROB_THRESHOLD
    if not sure and _no_speech_probability(whisper, logits[0]) > NO_SPEECH_THRESHOLD:
        return FallbackDecision.NO_SPEECH
    accept = sure and compression_ratio(text) <= COMPRESSION_RATIO_THRESHOLD
    return FallbackDecision.ACCEPT if accept else FallbackDecision.RETRY


def _no_speech_probability(whisper: Whisper, logits: Tensor) -> float:
    """Return the probability of no speech, from the logits after the start token: (vocabulary,)."""
    vocabulary = whisper.processor.tokenizer.get_vocab()
    ids = [vocabulary[token] for token in NO_SPEECH_TOKENS if token in vocabulary]
    return float(logits.softmax(-1)[ids].sum())


def compression_ratio(text: str) -> float:
    """Return the size of a text over its size after zlib; above 2.4 the text is repetitive."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw) / len(zlib.compress(raw))


def seed_from_id(utterance_id: str) -> None:
    """Seed torch from an utterance's id, so that sampling does not depend on its batch."""
    torch.manual_seed(zlib.crc32(utterance_id.encode()))
