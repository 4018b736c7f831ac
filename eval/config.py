"""The knobs of evaluation."""

from dataclasses import dataclass
from typing import Literal

from data.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """How texts are decoded and compared."""

    batch_clips: int = 16  # clips decoded together, on each process
    max_length: int = 225  # tokens a clip's text may have, as in the guide
    tokens_per_second: float = 40.0  # of audio, and 16 more: a loop ends there; speech has 3 to 15
    pad: Literal["auto", "30s", "bucket"] = "auto"  # auto: true length where it was trained so
    num_beams: int = 1  # 1: greedy
    # auto: characters where words have no spaces, and in Korean; mixed: both, for code-switching
    unit: Literal["auto", "word", "character", "mixed"] = "auto"
    # basic and english: Whisper's own; unicode: basic that keeps the marks of Hindi or Thai; auto:
    # english for English, unicode else; docs/scores.md
    normalizer: Literal["auto", "basic", "english", "unicode", "none"] = "auto"
    audio: Literal["link", "embed", "none"] = "link"  # of report.html: to files, or inside it
    embed_clips: int = 200  # whose sound is inside: those with the most edits

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        for key in ("batch_clips", "max_length", "num_beams", "embed_clips"):
            if getattr(self, key) < 1:
                raise InputError(f"eval.{key} must be at least 1, got {getattr(self, key)}")
        if not self.tokens_per_second > 0:
            raise InputError(
                f"eval.tokens_per_second must be greater than 0, got {self.tokens_per_second}"
            )
        if self.max_length > 448:
            raise InputError(f"eval.max_length must be at most 448, got {self.max_length}")
