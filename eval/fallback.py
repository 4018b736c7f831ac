"""When a text is decoded again: Whisper's own rules, its paper's section 4.5.

A text that compresses too well repeats itself, one of low probability is a guess: it is sampled
again, ever more freely, until one is neither. What sounds like silence and is a guess is silence.
transformers has the same for long audio, and for short audio one clip at a time: in a batch it
takes one clip's silence for another's, and it needs features, not an encoder's short output.
"""

import zlib
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from eval.whisper import Whisper

# openai/whisper's transcribe.py
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # after greedy or beams
MOST_COMPRESSED = 2.4  # a text's bytes over what zlib makes of them
LEAST_PROBABLE = -1.0  # mean log-probability of a text's tokens
NO_SPEECH = 0.6  # probability of its token
NO_SPEECH_TOKENS = ("<|nospeech|>", "<|nocaptions|>")
# for transformers, which compresses ids instead of texts: 1.35 is its documentation's value
LONG: dict[str, Any] = {
    "temperature": (0.0, *TEMPERATURES),
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": LEAST_PROBABLE,
    "no_speech_threshold": NO_SPEECH,
}


class Verdict(Enum):
    """What a decoded text is."""

    GOOD = "good"
    SILENT = "silent"  # nothing was said
    BAD = "bad"


def judge(whisper: Whisper, states: Tensor, ids: list[int], prefix: int, text: str) -> Verdict:
    """Say what a decoded text is.

    Args:
        whisper: decoded it.
        states: of its clip, from the encoder. Shape: (1, positions, d_model).
        ids: what was decoded, from the start token to the end token, where there is one.
        prefix: how many of them stand before the text.
        text: the same, read.
    """
    inputs = torch.tensor([ids], device=states.device)
    output = whisper.model(encoder_outputs=(states,), decoder_input_ids=inputs, use_cache=False)
    logits = output.logits[0].float()  # (tokens, vocabulary)
    told = logits[prefix - 1 : -1].log_softmax(-1).gather(-1, inputs[0, prefix:, None])
    probable = float(told.mean()) if len(told) else 0.0
    if probable < LEAST_PROBABLE and _no_speech(whisper, logits[0]) > NO_SPEECH:
        return Verdict.SILENT
    good = probable >= LEAST_PROBABLE and compression(text) <= MOST_COMPRESSED
    return Verdict.GOOD if good else Verdict.BAD


def _no_speech(whisper: Whisper, logits: Tensor) -> float:
    """Return the probability of silence, of the logits behind the start token."""
    known = whisper.processor.tokenizer.get_vocab()
    ids = [known[token] for token in NO_SPEECH_TOKENS if token in known]
    return float(logits.softmax(-1)[ids].sum())


def compression(text: str) -> float:
    """Return how often smaller zlib makes a text; more than 2.4 times, and it repeats itself."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw) / len(zlib.compress(raw))


def seed(clip: str) -> None:
    """Draw as this clip does, in whatever batch it is, so that a score repeats."""
    torch.manual_seed(zlib.crc32(clip.encode()))
