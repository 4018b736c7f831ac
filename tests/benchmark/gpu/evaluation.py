"""How fast clips are transcribed, by precision, batch and decoder: whisper-small, padded to 30 s.

    python tests/benchmark/gpu/evaluation.py

The weights are random, so no text ends before its limit: a clip costs as many steps of decoding as
5 s of speech do. Nothing is read from disk.
"""

import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the other benchmarks
sys.path.insert(1, str(Path(__file__).resolve().parents[3]))

import torch
from gpu.model import fresh_accelerator, random_whisper
from gpu.rows import record, smoke
from torch import Tensor

from data.config import DataConfig
from data.log_mel import SAMPLE_RATE
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.greedy import GreedyDecoder
from eval.whisper import Whisper

CLIP_SECONDS = 5.0
TOKENS = 24  # a clip's text
CLIPS = 64
# precision, padded audio decoded together in seconds, what decodes; the default first
VARIANTS = (
    ("bf16", 480.0, "CUDA graphs"),
    ("bf16", 480.0, "eager"),
    ("bf16", 480.0, "generate"),
    ("no", 480.0, "CUDA graphs"),
    ("bf16", 1920.0, "CUDA graphs"),
    ("bf16", 1920.0, "generate"),
    ("fp16", 480.0, "CUDA graphs"),
    ("no", 480.0, "generate"),
)


def main() -> None:
    """Measure each variant twice, and tell both: the first one meets new shapes."""
    device = torch.device("cpu" if smoke() else "cuda")
    whisper = random_whisper("nano" if smoke() else "small", device)
    for precision, seconds, decoder in VARIANTS[: 3 if smoke() else None]:
        decoding = (
            patch("eval.generate.decodes_greedily", lambda *_: False)
            if decoder == "generate"
            else patch(
                "eval.evaluate.GreedyDecoder", partial(GreedyDecoder, graphs=decoder != "eager")
            )
        )
        with decoding:
            rates = [clips_per_second(whisper, device, precision, seconds) for _ in range(2)]
        name = "fp32" if precision == "no" else precision
        record(
            f"{name}, {decoder}, {seconds / 30:.0f} clips a batch",
            first_clips_per_second=round(rates[0], 1),
            clips_per_second=round(rates[1], 1),
        )


def clips_per_second(
    whisper: Whisper, device: torch.device, precision: str, seconds: float
) -> float:
    """Return the clips that an evaluation hears a second.

    Args:
        whisper: the model, in float32.
        device: where it is.
        precision: Accelerate's word.
        seconds: of padded audio that is decoded together.
    """
    accelerator = fresh_accelerator(device, precision)
    sound = 0.1 * torch.randn(
        round(CLIP_SECONDS * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)
    )

    def hear(_: Utterance) -> Tensor:
        return sound

    count = 2 if smoke() else CLIPS
    utterances = [
        Utterance(id=str(i), audio=str(i), text="one two", seconds=CLIP_SECONDS, language="en")
        for i in range(count)
    ]
    evaluator = Evaluator(
        accelerator=accelerator,
        whisper=whisper,
        data=DataConfig(workers=0),
        config=EvalConfig(batch_seconds=seconds, max_length=4 if smoke() else TOKENS),
    )
    scores, _ = evaluator.evaluate(utterances, "speed", load_audio=hear)
    return count / scores.seconds


if __name__ == "__main__":
    main()
