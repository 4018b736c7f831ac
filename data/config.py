"""The knobs of the data: one line each."""

from dataclasses import dataclass
from typing import Literal

from data.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which speech, and how it becomes batches."""

    corpus: tuple[str, ...] = ()  # folders, manifests or Hub names; several are joined
    layout: Literal["auto", "common_voice", "manifest", "hub"] = "auto"  # auto: by what lies there
    train_split: str = "train"  # splits are joined with +, as in train+dev; validated: see README
    dev_split: str | None = "dev"  # chooses the best model; None: no choosing
    test_split: str | None = "test"  # reported, before and after; None: no report
    language: str | None = None  # Whisper's code; None: as the corpus says, utterance by utterance
    task: Literal["transcribe", "translate"] = "transcribe"  # translate: texts are English
    text_column: str = "auto"  # auto: sentence, text, transcription or transcript
    audio_column: str = "audio"  # of a dataset from the Hub
    subset: str | None = None  # configuration of a dataset from the Hub
    revision: str | None = None  # commit of a dataset from the Hub; None: the newest

    check: Literal["header", "decode"] = "decode"  # what the scan does; decode finds broken audio
    missing: Literal["error", "drop"] = "error"  # what to do with a row whose audio is not there
    max_broken: float = 0.01  # share of the training clips that may be broken before the run stops
    min_seconds: float = 0.1  # shorter clips are dropped
    max_seconds: float = 30.0  # clips of this length and longer are dropped: one Whisper window

    pad: Literal["mixed", "bucket", "30s"] = "mixed"  # bucket: pays for real audio; 30s: as stock
    padded_share: float = 0.15  # of the compute of mixed, spent on updates padded to 30 s
    trailing_silence: float = (
        0.0  # share of the other updates, padded to a random length up to 30 s
    )
    update_seconds: float = 120.0  # audio an update holds at most, over all processes
    update_tokens: int = 4096  # label tokens an update holds at most, over all processes
    update_clips: int | None = None  # clips an update; replaces update_seconds and update_tokens
    pass_seconds: float = 480.0  # padded audio a forward pass holds on one process: a memory limit
    buckets: int = 32  # at most; fewer where the corpus is small

    workers: int = 2  # that decode, for each process that trains; 0: it does, and a crash ends it
    prefetch: int = 4  # batches each worker keeps ready

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        positive = ("update_seconds", "update_tokens", "pass_seconds", "buckets", "prefetch")
        for key in (*positive, *(["update_clips"] if self.update_clips is not None else [])):
            if not getattr(self, key) > 0:  # so written, NaN is refused too
                raise InputError(f"data.{key} must be greater than 0, got {getattr(self, key)}")
        if not 0 < self.max_seconds <= 30:
            raise InputError(
                f"data.max_seconds must lie between 0 and 30, got {self.max_seconds}: "
                "Whisper hears 30 seconds at a time"
            )
        if not 0 < self.padded_share < 1:
            raise InputError(f"data.padded_share must lie between 0 and 1, got {self.padded_share}")
        for key in ("trailing_silence", "max_broken"):
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(f"data.{key} must lie between 0 and 1, got {getattr(self, key)}")
        if self.workers < 0:
            raise InputError(f"data.workers must be 0 or more, got {self.workers}")
