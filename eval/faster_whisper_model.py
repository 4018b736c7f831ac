"""Load, transcribe with and score a model that was converted for CTranslate2 (faster-whisper).

Features, windows and beam search are faster-whisper's own, so the scores are those of a deployed
model. It takes one clip at a time.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.progress import track
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from data.audio import decode
from data.errors import InputError
from data.labels import END, MAX_TOKENS, LabelEncoder
from data.log_mel import CHUNK_SECONDS
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.device import Precision
from eval.fallback import (
    COMPRESSION_RATIO_THRESHOLD,
    LOGPROB_THRESHOLD,
    NO_SPEECH_THRESHOLD,
    TEMPERATURES,
)
from eval.generate import DecodeResult
from eval.metrics.hypothesis import Hypothesis
from eval.metrics.scores import Scores, score
from eval.segments import Segment

WEIGHTS = "model.bin"
# CTranslate2's compute types; default: the type that the folder was converted with
COMPUTE_TYPES = {"auto": "default", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def is_faster_whisper_model(name: str) -> bool:
    """Return whether a model's name is a folder that CTranslate2's converter wrote."""
    return (Path(name) / WEIGHTS).is_file()


@dataclass(frozen=True, kw_only=True, slots=True)
class FasterWhisperModel:
    """A converted model, with the interface of Whisper and of Evaluator."""

    model: Any  # faster-whisper's WhisperModel
    tokenizer: Any
    suppressed: list[int]  # ids of tokens that are never decoded
    config: EvalConfig
    name: str  # its folder

    @property
    def multilingual(self) -> bool:
        """Return whether the model has language tokens."""
        return bool(self.model.model.is_multilingual)

    @property
    def language(self) -> str | None:
        """Return en for an English-only model, else None: the folder names no other language."""
        return None if self.multilingual else "en"

    def labels(self) -> LabelEncoder:
        """Return the LabelEncoder, which knows the languages and counts tokens."""
        return LabelEncoder(self.tokenizer, max_tokens=MAX_TOKENS, multilingual=self.multilingual)

    def evaluate(
        self,
        utterances: Sequence[Utterance],
        label: str,
        *,
        true_length: bool = False,
        load_audio: Callable[[Utterance], Tensor] = decode.load_audio,
    ) -> tuple[Scores, list[Hypothesis]]:
        """Transcribe and score utterances, as Evaluator.evaluate() does.

        Args:
            utterances: with references.
            label: shown beside the progress bar.
            true_length: must be False: faster-whisper pads to 30 s.
            load_audio: returns an utterance's samples.
        """
        assert not true_length
        started = time.perf_counter()
        hypotheses = []
        for u in track(utterances, label, disable=not sys.stdout.isatty(), transient=True):
            hypotheses.append(Hypothesis.of(u, self.transcribe(u, load_audio(u).numpy())))
        seconds = time.perf_counter() - started
        config = self.config
        return score(hypotheses, config.normalizer, seconds, config.error_unit), hypotheses

    def transcribe(self, u: Utterance, samples: Any) -> DecodeResult:
        """Return the hypothesis of a clip of any length.

        Args:
            u: gives length, language and task.
            samples: a numpy array at 16 kHz. Shape: (samples,).
        """
        config = self.config
        long = u.seconds > CHUNK_SECONDS
        timed = config.timestamps or long
        max_tokens = config.max_length if long else config.max_tokens(u.seconds)
        max_tokens = min(max_tokens, MAX_TOKENS // 2)
        prefix = (3 if self.multilingual else 1) + (not timed)
        segments, _ = self.model.transcribe(
            samples,
            language=u.language,
            task=u.task,
            beam_size=config.num_beams,
            best_of=1,
            temperature=(0.0, *TEMPERATURES) if config.fallback else 0.0,
            compression_ratio_threshold=COMPRESSION_RATIO_THRESHOLD if config.fallback else None,
            log_prob_threshold=LOGPROB_THRESHOLD if config.fallback else None,
            no_speech_threshold=NO_SPEECH_THRESHOLD if config.fallback else None,
            condition_on_previous_text=False,
            suppress_tokens=self.suppressed,
            without_timestamps=not timed,
            max_new_tokens=2 * max_tokens - prefix,  # CTranslate2 decodes half of prefix + this
        )
        windows = [list(group) for _, group in groupby(segments, key=lambda s: s.seek)]
        ids = [[i for segment in window for i in segment.tokens] for window in windows]
        end = self.tokenizer.convert_tokens_to_ids(END)
        return DecodeResult(
            text="".join(segment.text for window in windows for segment in window).strip(),
            tokens=sum(i < end for window in ids for i in window),
            truncated=any(len(window) >= max_tokens for window in ids),
            segments=tuple(Segment(s.start, s.end, s.text) for window in windows for s in window),
        )


def load_faster_whisper_model(
    name: str, config: EvalConfig, precision: Precision = "auto"
) -> FasterWhisperModel:
    """Load a folder that CTranslate2's converter wrote.

    Args:
        name: the folder.
        config: how to decode.
        precision: auto, fp32, fp16 or bf16; auto: the type that the folder was converted with.

    Raises:
        InputError: faster-whisper is not installed, the folder is incomplete, or eval.pad is
            bucket.
    """
    if config.pad == "bucket":
        raise InputError(
            f"eval.pad=bucket: {name!r} is decoded by faster-whisper, which pads every clip to "
            "30 s: leave eval.pad out"
        )
    folder = Path(name)
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise InputError(
                f"model {name!r}: the folder has {WEIGHTS} but no {file}: convert it again with "
                "ct2-transformers-converter … --copy_files tokenizer.json"
            )
    model = _load(name, COMPUTE_TYPES[precision])
    model_config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    suppressed = model_config.get("suppress_ids") or []
    return FasterWhisperModel(
        model=model, tokenizer=tokenizer, suppressed=suppressed, config=config, name=name
    )


def _load(name: str, compute_type: str) -> Any:
    """Load faster-whisper's WhisperModel.

    Raises:
        InputError: faster-whisper is not installed, or cannot load the folder.
    """
    try:
        from ctranslate2 import set_random_seed
        from faster_whisper import WhisperModel
        from faster_whisper.feature_extractor import FeatureExtractor
    except ImportError as error:
        raise InputError(
            f"model {name!r} was converted for CTranslate2 and needs faster-whisper: "
            'pip install "whisper-loop[ct2]", or pip install faster-whisper'
        ) from error
    logging.getLogger("faster_whisper").setLevel(logging.ERROR)
    set_random_seed(0)  # for reproducible scores
    try:
        model = WhisperModel(name, compute_type=compute_type, local_files_only=True)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"model {name!r} cannot be loaded: {reason}") from error
    # faster-whisper reads preprocessor_config.json, which transformers 5 no longer writes, and
    # assumes 80 mel bins without it
    model.feature_extractor = FeatureExtractor(feature_size=model.model.n_mels)
    return model
