"""EvalConfig: the settings of decoding and scoring."""

from dataclasses import dataclass
from typing import Literal

from data.config import Task
from data.errors import InputError

EXTRA_TOKENS = 16  # added to tokens_per_second × seconds, for the prefix and the shortest clips


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """How audio is decoded and scored."""

    # Seconds of padded audio that each process decodes together. None is what fits in the free
    # memory of a GPU, up to 1,920, and 480 on a CPU: 16 clips of 30 s.
    batch_seconds: float | None = None
    max_length: int = 225  # Tokens in a clip's text at most.
    # Tokens for each second of audio at most, plus 16, which ends loops. Speech has 3 to 15.
    tokens_per_second: float = 40.0
    # What clips are padded to. 30s is as stock Whisper decodes, and bucket is their true length.
    # auto is 30s, but dev is not padded in a run with data.pad=bucket and model.silence_states.
    pad: Literal["auto", "30s", "bucket"] = "auto"
    num_beams: int = 1  # Beams of the beam search. 1 is greedy decoding.
    # Decode repetitive or improbable texts again at temperatures from 0.2 to 1.0.
    fallback: bool = False
    # Decode with timestamps, as audio longer than 30 s always is. Scores ignore them.
    timestamps: bool = False
    # Unit of the error rate. auto is character for languages without spaces and for Korean, and
    # word for others. mixed counts both, for code-switching (docs/scores.md).
    error_unit: Literal["auto", "word", "character", "mixed"] = "auto"
    # How texts are normalized before they are scored. basic and english are Whisper's own, and
    # unicode is basic that keeps the marks of Hindi or Thai. auto is english for English and
    # unicode for other languages (docs/scores.md).
    normalizer: Literal["auto", "basic", "english", "unicode", "none"] = "auto"
    # Whether report.html links to the audio files, embeds the audio, or has none.
    audio: Literal["link", "embed", "none"] = "link"
    # Clips whose audio is embedded in report.html: those with the most edits.
    embed_clips: int = 200

    # Also decode clips of silence and noise when test is scored, and count the text that the model
    # makes up (hallucination).
    non_speech: bool = True
    # A corpus in another language or task. Some of its clips are scored beside dev, to measure
    # forgetting. Without texts they are compared with the model's output before training.
    forgetting_corpus: str | None = None
    forgetting_split: str = "test"  # Split of eval.forgetting_corpus.
    # Whisper's code of its language. None takes what the corpus says.
    forgetting_language: str | None = None
    forgetting_task: Task = "transcribe"  # Whisper's task for its clips.
    forgetting_clips: int = 64  # Clips of eval.forgetting_corpus that are scored, always the same.

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a number is out of its range.
        """
        for key in ("max_length", "num_beams", "embed_clips", "forgetting_clips"):
            if getattr(self, key) < 1:
                raise InputError(f"eval.{key} must be at least 1, got {getattr(self, key)}")
        for key in ("batch_seconds", "tokens_per_second"):
            if getattr(self, key) is not None and not getattr(self, key) > 0:  # also true for NaN
                raise InputError(f"eval.{key} must be greater than 0, got {getattr(self, key)}")
        if self.max_length > 448:
            raise InputError(f"eval.max_length must be at most 448, got {self.max_length}")

    def max_tokens(self, seconds: float) -> int:
        """Return the token limit of a clip, by its seconds: a longer text is a decoding loop."""
        return min(self.max_length, EXTRA_TOKENS + round(self.tokens_per_second * seconds))
