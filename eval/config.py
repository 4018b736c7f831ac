"""The knobs of evaluation."""

from dataclasses import dataclass
from typing import Literal

from data.config import Task
from data.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """How texts are decoded and compared."""

    # audio decoded together on each process, padding included: 16 clips of 30 s, more of shorter
    batch_seconds: float = 480.0
    max_length: int = 225  # tokens a clip's text may have, as in the guide
    tokens_per_second: float = 40.0  # of audio, and 16 more: a loop ends there; speech has 3 to 15
    # auto: 30s, as stock pipelines decode; a run that trains with bucket hears dev at true length
    pad: Literal["auto", "30s", "bucket"] = "auto"
    num_beams: int = 1  # 1: greedy
    fallback: bool = False  # decode what loops or is unsure again at temperatures 0.2 … 1.0
    timestamps: bool = False  # decode with times, as long audio always is; texts are scored without
    # auto: characters where words have no spaces, and in Korean; mixed: both, for code-switching
    unit: Literal["auto", "word", "character", "mixed"] = "auto"
    # basic and english: Whisper's own; unicode: basic that keeps the marks of Hindi or Thai; auto:
    # english for English, unicode else; docs/scores.md
    normalizer: Literal["auto", "basic", "english", "unicode", "none"] = "auto"
    audio: Literal["link", "embed", "none"] = "link"  # of report.html: to files, or inside it
    embed_clips: int = 200  # whose sound is inside: those with the most edits

    noise: bool = True  # hear silence and noise whenever test is scored: what is said to nothing
    # a corpus in another language or task, of which a few clips are scored beside dev: what the
    # model unlearns. Without texts, they are compared with what the model heard in them at first
    forget_corpus: str | None = None
    forget_split: str = "test"  # of it
    forget_language: str | None = None  # Whisper's code; None: as the corpus says
    forget_task: Task = "transcribe"
    forget_clips: int = 64  # of it, always the same

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        for key in ("max_length", "num_beams", "embed_clips", "forget_clips"):
            if getattr(self, key) < 1:
                raise InputError(f"eval.{key} must be at least 1, got {getattr(self, key)}")
        for key in ("batch_seconds", "tokens_per_second"):
            if not getattr(self, key) > 0:  # so written, NaN is refused too
                raise InputError(f"eval.{key} must be greater than 0, got {getattr(self, key)}")
        if self.max_length > 448:
            raise InputError(f"eval.max_length must be at most 448, got {self.max_length}")
