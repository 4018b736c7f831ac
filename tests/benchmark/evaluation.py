"""How fast clips are transcribed: Seq2SeqTrainer's predict_with_generate against an evaluation.

    python tests/benchmark/evaluation.py --model=MODEL --corpus=CORPUS --language=en

Everything runs in turn in one process, on one thread without a GPU. A second is one of the
process's CPU time, in which other programs have no part. "generate" is an evaluation that decodes
with transformers' generate(), "greedy" one that decodes with eval/greedy.py. Seq2SeqTrainer gets
its features ready-made; an evaluation decodes audio and computes them.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

import data  # noqa: F401 - makes torchaudio importable; transformers imports it

# isort: split

import torch
from peer import arguments
from peer_data import Collator, Facts, load_processor
from transformers import Seq2SeqTrainer, WhisperForConditionalGeneration

from data.audio.decode import load_audio
from data.config import DataConfig
from data.config_parser import parse_dataclass
from data.corpora import read
from data.errors import plain_errors
from data.log_mel import CHUNK_SECONDS, SAMPLE_RATE
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.device import build_evaluation_accelerator
from eval.evaluate import Evaluator
from eval.whisper import load_whisper

Texts = list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Time evaluations of the same clips."""

    model: str  # a folder, or a name on the Hub
    corpus: str  # a folder in any layout that data.corpus takes
    language: str = "en"  # Whisper's code
    clips: int = 16  # of the test split
    eval_clips: int = 16  # decoded together, padded to 30 s
    rounds: int = 3  # of all, one after another
    precision: str = "fp32"  # Accelerate's, or auto


def main() -> None:
    """Measure all in turn, and print a JSON line a round."""
    with plain_errors(), TemporaryDirectory() as folder:
        command = parse_dataclass(Command, sys.argv[1:])
        torch.set_num_threads(1)
        config = DataConfig(corpus=(command.corpus,), language=(command.language,))
        found = [u for u in read(config, "test") if u.seconds <= CHUNK_SECONDS]
        clips = found[:: max(1, len(found) // command.clips)][: command.clips]
        contenders = {"predict_with_generate": peer(command, clips, folder), **ours(command, clips)}
        for number in range(command.rounds):
            told = measure(contenders, len(clips))
            print(json.dumps({"round": number, **told}), flush=True)


def measure(contenders: dict[str, Callable[[], Texts]], clips: int) -> dict[str, float]:
    """Return the clips a CPU second of each, its ratio to the first, and how many texts agree."""
    told: dict[str, float] = {}
    texts: dict[str, Texts] = {}
    for name, transcribe in contenders.items():
        started = time.process_time()
        texts[name] = transcribe()
        told[name] = clips / (time.process_time() - started)
    first, *others = contenders
    told |= {f"{name}: ratio": told[name] / told[first] for name in others}
    for name in others:
        same = sum(a == b for a, b in zip(texts[first], texts[name], strict=True))
        told[f"{name}: same texts"] = same
    return {name: round(figure, 3) for name, figure in told.items()}


def peer(command: Command, clips: list[Utterance], folder: str) -> Callable[[], Texts]:
    """Return Seq2SeqTrainer's evaluation, with the arguments of the guide."""
    processor = load_processor(command.model, command.language)
    model = WhisperForConditionalGeneration.from_pretrained(
        command.model, dtype=torch.float32, attn_implementation="sdpa"
    )
    if model.generation_config.is_multilingual:
        model.generation_config.language = command.language
        model.generation_config.task = "transcribe"
    trainer = Seq2SeqTrainer(
        args=arguments(facts_of(command, folder)),
        model=model,
        data_collator=Collator(processor, model.config.decoder_start_token_id),
        processing_class=processor,
    )
    extract = partial(processor.feature_extractor, sampling_rate=SAMPLE_RATE)
    rows = [
        {
            "input_features": extract(load_audio(u).numpy()).input_features[0],
            "labels": processor.tokenizer(u.text).input_ids,
        }
        for u in clips
    ]

    def transcribe() -> Texts:
        tokens = trainer.predict(rows).predictions
        tokens[tokens == -100] = processor.tokenizer.pad_token_id
        texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]

    return transcribe


def facts_of(command: Command, folder: str) -> Facts:
    """Return what the arguments of the guide depend on."""
    return Facts(
        do="evaluate",
        model=command.model,
        language=command.language,
        output=folder,
        eval_clips=command.eval_clips,
        workers=0,
        precision=command.precision,
        gradient_checkpointing=False,
        **dict.fromkeys(("corpus", "cache", "out"), ""),  # of no use here
        **dict.fromkeys(("clips", "updates", "warmup", "seed"), 1),
    )


def ours(command: Command, clips: list[Utterance]) -> dict[str, Callable[[], Texts]]:
    """Return evaluations, padded and at true length, with either way of decoding."""
    accelerator = build_evaluation_accelerator(command.precision)
    whisper = load_whisper(command.model)
    whisper.model.to(accelerator.device)
    evaluator = Evaluator(
        accelerator=accelerator,
        whisper=whisper,
        data=DataConfig(workers=0),
        config=EvalConfig(batch_seconds=CHUNK_SECONDS * command.eval_clips),
    )

    def contender(*, greedy: bool, true_length: bool) -> Callable[[], Texts]:
        def transcribe() -> Texts:
            with patch("eval.generate.decodes_greedily", lambda *_: greedy):
                found = evaluator.evaluate(clips, "test", true_length=true_length)[1]
            return [hypothesis.text for hypothesis in found]

        return transcribe

    return {
        f"{way}, {length}": contender(greedy=way == "greedy", true_length=length == "true length")
        for length in ("padded", "true length")
        for way in ("generate", "greedy")
    }


if __name__ == "__main__":
    main()
