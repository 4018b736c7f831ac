"""Which clips an evaluation decodes together: by length, and as many as fit in memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from data.log_mel import CHUNK_SECONDS, FRAMES_PER_POSITION, FRAMES_PER_SECOND
from data.sampling.padded_length import evaluation_frames
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.greedy import GreedyDecoder
from eval.static_cache import CacheShape
from eval.whisper import Whisper

CPU_SECONDS = 480.0  # of padded audio in a batch: 16 windows of 30 s, as the usual guides decode
# A larger batch makes a clip's share of a decoding step about a tenth cheaper at best. The step
# reads the keys and values of all clips, and the decoder's weights once: in half precision, at
# 1,920 s, 3.5 GB and 0.3 GB with whisper-small, and 16 GB and 1.8 GB with large-v3
GPU_SECONDS = 1920.0
# at this many rows matrix products do 256 operations for each byte of weights in half precision,
# and an H100 does 295 in the time that it takes to read a byte (989 TFLOP/s, 3.35 TB/s)
GPU_ROWS = 256
USED_SHARE = 0.8  # of free memory. Fragments, workspaces of libraries and other kernels need some
PREFIX_TOKENS = 4  # start, language, task, no timestamps

# bytes, as measured on a CPU (tests/eval/test_batch_size.py)
FRAME_BYTES = 4700  # of computing the features of a frame: spectrum and power, in float32
REFERENCE_BYTES = 8  # of a logit of a label: itself and its log-softmax, in float32
STEP_BYTES = 16  # of a logit of a step: eager, in the graphs' memory, and copies of generate()
ENCODER_WIDTHS = 12  # d_model values a position: 4 d before and 4 d after the activation, and 4 d
DECODER_WIDTHS = 12  # the same for each token of a label

MaxRows = Callable[[float], int]


def group_clips(
    utterances: Sequence[Utterance],
    *,
    true_length: bool,
    processes: int,
    max_rows: MaxRows,
) -> list[list[int]]:
    """Return batches of indices.

    A batch holds clips of one task and one padded length, which does not depend on the other clips.
    Batches are sorted from long to short; a clip over 30 s is a batch of its own.

    Args:
        utterances: of all processes.
        true_length: clips are not padded to 30 s.
        processes: a small set is split into one batch for each at least.
        max_rows: returns how many clips of some padded seconds are decoded together.
    """

    def padded_seconds(index: int) -> float:
        seconds = utterances[index].seconds
        return evaluation_frames(seconds) / FRAMES_PER_SECOND if true_length else CHUNK_SECONDS

    order = sorted(range(len(utterances)), key=lambda i: -utterances[i].seconds)
    batches = [[i] for i in order if utterances[i].seconds > CHUNK_SECONDS]
    short = order[len(batches) :]
    share = sum(map(padded_seconds, short)) / processes if processes > 1 else math.inf
    for task in sorted({u.task for u in utterances}):
        rest = [i for i in short if utterances[i].task == task]
        while rest:
            longest = padded_seconds(rest[0])
            rows = int(min(max_rows(longest), max(1, share / longest)))
            batches.append([i for i in rest[:rows] if padded_seconds(i) == longest])
            rest = rest[len(batches[-1]) :]
    return batches


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchMemory:
    """Estimates the peak memory of batches that are encoded, decoded and compared with labels.

    With d = d_model, b bytes a value, p encoder positions of a clip, K positions and T tokens of
    the decoder's cache, L tokens of a label and V tokens in the vocabulary, a row takes at most

        2 decoder_layers (K + T) d b beams    keys and values
        + 2 p n_mels 4 + p d b beams          features and encoder output
        + the largest of
            2 p FRAME_BYTES                            computing features
            2 p n_mels b + 12 p d b                    the encoder's feed-forward layers
            (6 p + 2 K) d b                            the encoder's attention
            p d b + 16 V beams                         a step of decoding
            8 L V + (p + 2 K + 12 L) d b               the reference loss

    K and T are rounded up as GreedyDecoder rounds them, and K includes silence states. On a CPU
    (the shapes of whisper-tiny.en and base) the estimate is 1.04 to 1.16 times what was measured.
    """

    whisper: Whisper  # the model that decodes, in the precision of the evaluation
    greedy: GreedyDecoder
    config: EvalConfig
    label_tokens: int  # of the longest label; 0 if no loss of references is computed

    def rows(self, seconds: float, free: float) -> int:
        """Return how many clips fit in memory together: a power of two, as CUDA graphs need.

        Args:
            seconds: padded length of each clip.
            free: bytes.
        """
        most, rows = min(GPU_ROWS, GPU_SECONDS / seconds), 1
        while 2 * rows <= most and self.bytes(2 * rows, seconds) <= USED_SHARE * free:
            rows *= 2
        return rows

    def bytes(self, rows: int, seconds: float) -> int:
        """Return the peak memory of a batch in bytes, weights not included.

        Args:
            rows: clips of the batch.
            seconds: padded length of each clip.
        """
        model, beams = self.whisper.model, self.config.num_beams
        config, wide = model.config, model.config.d_model * model.dtype.itemsize
        frames = round(seconds * FRAMES_PER_SECOND)
        positions = frames // FRAMES_PER_POSITION
        tokens = PREFIX_TOKENS + self.config.max_tokens(seconds)
        shape = self.greedy.cache_shape(rows, positions, tokens)
        mels, labels = frames * config.num_mel_bins, self.label_tokens
        held = 4 * mels + positions * wide * beams
        phases = (
            frames * FRAME_BYTES,
            mels * model.dtype.itemsize + ENCODER_WIDTHS * positions * wide,
            (6 * positions + 2 * shape.positions) * wide,
            positions * wide + STEP_BYTES * config.vocab_size * beams,
            REFERENCE_BYTES * config.vocab_size * labels
            + (positions + 2 * shape.positions + DECODER_WIDTHS * labels) * wide,
        )
        return rows * (held + max(phases)) + beams * _cache_bytes(config, shape, wide)


def _cache_bytes(config: Any, shape: CacheShape, wide: int) -> int:
    """Return the bytes of all layers' keys and values; `wide` is bytes of d_model values."""
    return 2 * config.decoder_layers * shape.rows * (shape.positions + shape.tokens) * wide
