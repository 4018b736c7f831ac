"""A Whisper that was converted for CTranslate2, scored as faster-whisper decodes it.

The features, the windows and the search are faster-whisper's own: what a person gets who deploys
the folder. It takes one clip at a time.
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

from data.audio.decode import load_audio
from data.errors import InputError
from data.labels import END, MAX_TOKENS, LabelEncoder
from data.log_mel import CHUNK_SECONDS
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.decode import MORE_TOKENS, DecodeResult
from eval.device import Precision
from eval.fallback import LEAST_PROBABLE, MOST_COMPRESSED, NO_SPEECH, TEMPERATURES
from eval.metrics.hypothesis import Hypothesis
from eval.metrics.scores import Scores, score
from eval.segments import Segment

WEIGHTS = "model.bin"
# CTranslate2's names; default: as the folder was converted
COMPUTE = {"auto": "default", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def is_faster_whisper_model(name: str) -> bool:
    """Tell whether a model's name is a folder that CTranslate2 made."""
    return (Path(name) / WEIGHTS).is_file()


@dataclass(frozen=True, kw_only=True, slots=True)
class FasterWhisperModel:
    """A converted model."""

    model: Any  # faster-whisper's WhisperModel
    tokenizer: Any
    suppressed: list[int]  # tokens that it never says
    config: EvalConfig
    name: str  # its folder

    @property
    def multilingual(self) -> bool:
        """Tell whether it knows other languages than English."""
        return bool(self.model.model.is_multilingual)

    @property
    def language(self) -> str | None:
        """Return the one language that it knows; nobody wrote down what it was fine-tuned for."""
        return None if self.multilingual else "en"

    def labels(self) -> LabelEncoder:
        """Return what knows its languages and counts its tokens."""
        return LabelEncoder(self.tokenizer, max_tokens=MAX_TOKENS, multilingual=self.multilingual)

    def evaluate(
        self,
        utterances: Sequence[Utterance],
        label: str,
        *,
        true_length: bool = False,
        hear: Callable[[Utterance], Tensor] = load_audio,
    ) -> tuple[Scores, list[Hypothesis]]:
        """Transcribe and score, as Evaluator.evaluate() does.

        Args:
            utterances: what to transcribe, with references.
            label: shown beside the progress bar.
            true_length: never: faster-whisper pads to 30 s.
            hear: returns an utterance's samples.
        """
        assert not true_length
        started = time.perf_counter()
        hypotheses = []
        for u in track(utterances, label, disable=not sys.stdout.isatty(), transient=True):
            h = self.transcribe(u, hear(u).numpy())
            hypotheses.append(Hypothesis.of(u, h))
        seconds = time.perf_counter() - started
        config = self.config
        return score(hypotheses, config.normalizer, seconds, config.error_unit), hypotheses

    def transcribe(self, u: Utterance, samples: Any) -> DecodeResult:
        """Return what is heard in a clip of any length; samples are numpy's."""
        config = self.config
        long = u.seconds > CHUNK_SECONDS
        timed, most = config.timestamps or long, config.max_length
        if not long:
            most = min(most, MORE_TOKENS + round(config.tokens_per_second * u.seconds))
        most = min(most, MAX_TOKENS // 2)
        prefix = (3 if self.multilingual else 1) + (not timed)
        segments, _ = self.model.transcribe(
            samples,
            language=u.language,
            task=u.task,
            beam_size=config.num_beams,
            best_of=1,
            temperature=(0.0, *TEMPERATURES) if config.fallback else 0.0,
            compression_ratio_threshold=MOST_COMPRESSED if config.fallback else None,
            log_prob_threshold=LEAST_PROBABLE if config.fallback else None,
            no_speech_threshold=NO_SPEECH if config.fallback else None,
            condition_on_previous_text=False,
            suppress_tokens=self.suppressed,
            without_timestamps=not timed,
            max_new_tokens=2 * most - prefix,  # CTranslate2 makes half of what stands in both
        )
        windows = [list(each) for _, each in groupby(segments, key=lambda segment: segment.seek)]
        ids = [[i for segment in window for i in segment.tokens] for window in windows]
        end = self.tokenizer.convert_tokens_to_ids(END)
        return DecodeResult(
            text="".join(segment.text for window in windows for segment in window).strip(),
            tokens=sum(i < end for window in ids for i in window),
            truncated=any(len(window) >= most for window in ids),
            segments=tuple(
                Segment(each.start, each.end, each.text) for window in windows for each in window
            ),
        )


def load_faster_whisper_model(
    name: str, config: EvalConfig, precision: Precision = "auto"
) -> FasterWhisperModel:
    """Load a folder that CTranslate2's converter made.

    Args:
        name: the folder.
        config: how to decode.
        precision: auto, fp32, fp16 or bf16; auto: as the folder was converted.

    Raises:
        InputError: faster-whisper is not installed, the folder is not whole, or true length is
            asked for.
    """
    if config.pad == "bucket":
        raise InputError(
            f"eval.pad=bucket: faster-whisper pads every clip of {name!r} to 30 s: leave it out"
        )
    folder = Path(name)
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise InputError(
                f"model {name!r}: the folder has {WEIGHTS} and no {file}: convert it again with "
                "ct2-transformers-converter … --copy_files tokenizer.json"
            )
    model = _load(name, COMPUTE[precision])
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    suppressed = told.get("suppress_ids") or []
    return FasterWhisperModel(
        model=model, tokenizer=tokenizer, suppressed=suppressed, config=config, name=name
    )


def _load(name: str, compute: str) -> Any:
    """Return faster-whisper's model."""
    try:
        from ctranslate2 import set_random_seed
        from faster_whisper import WhisperModel
        from faster_whisper.feature_extractor import FeatureExtractor
    except ImportError as error:
        raise InputError(
            f"model {name!r} was made by CTranslate2, which needs faster-whisper: "
            'pip install "whisper-loop[ct2]", or pip install faster-whisper'
        ) from error
    logging.getLogger("faster_whisper").setLevel(logging.ERROR)
    set_random_seed(0)  # a score repeats
    try:
        model = WhisperModel(name, compute_type=compute, local_files_only=True)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"model {name!r} cannot be loaded: {reason}") from error
    # its own reads a file that transformers 5 no longer writes, and takes 80 channels without it
    model.feature_extractor = FeatureExtractor(feature_size=model.model.n_mels)
    return model
