"""The knobs of the data: one line each."""

from dataclasses import dataclass, field
from typing import Literal, TypeVar

from data.audio.augment import AugmentConfig
from data.errors import InputError

PASS_SECONDS = 480.0  # where nobody has set or found another
T = TypeVar("T")
Layout = Literal[
    "auto",
    "ksponspeech",
    "aishell",
    "librispeech",
    "fleurs",
    "kaldi",
    "common_voice",
    "audiofolder",
    "manifest",
    "webdataset",
    "folder",
    "subtitles",
    "hub",
]
Task = Literal["transcribe", "translate"]
POSITIVE = (
    "update_seconds",
    "update_tokens",
    "update_clips",
    "pass_seconds",
    "pass_tokens",
    "pass_quadratic",
    "buckets",
    "token_buckets",
    "prefetch",
    "window",
)
SHARES = ("padded_share", "trailing_silence", "repair", "timestamps", "prompts", "max_broken")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One corpus, and the knobs that hold for it."""

    name: str  # as data.corpus names it
    layout: Layout
    language: str | None
    task: Task
    audio_root: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which speech, and how it becomes batches."""

    corpus: tuple[str, ...] = ()  # folders, manifests or Hub names; several are joined
    layout: tuple[Layout, ...] = ("auto",)  # one for all corpora or one for each; auto: by a look
    # splits are joined with +, as in train+dev; where corpora name theirs differently, with commas
    # one for each, or nothing for one that has none: train-clean-100,train
    train_split: str = "train"  # validated: docs/data.md
    dev_split: str | None = "dev"  # chooses the best model; None: no choosing
    test_split: str | None = "test"  # reported, before and after; None: no report
    # Whisper's code, one for all corpora or one for each; none: as the corpus says, row by row
    language: tuple[str, ...] = ()
    task: tuple[Task, ...] = ("transcribe",)  # the same; translate: the texts are English
    # how often an epoch hears each corpus: 2 is twice, 0.5 half of it, the other half in the next
    weights: tuple[float, ...] = ()  # none: once
    hours: tuple[float, ...] = ()  # the same in hours of each corpus an epoch, instead of weights
    text_column: str = "auto"  # auto: sentence, text, transcription or transcript
    language_column: str = "auto"  # auto: locale, language or lang_id, where it holds text
    speaker_column: str = "auto"  # auto: client_id, speaker_id or speaker, where it holds text
    audio_column: str = "audio"  # of a dataset from the Hub
    # folder that a manifest's paths are relative to and stay in, one for all corpora or one for
    # each; none: its own. The manifest itself cannot say it: whoever wrote that would choose what
    # is read here
    audio_root: tuple[str, ...] = ()
    # which of KsponSpeech's (spelling)/(pronunciation) is trained on, and scored by
    spelling: Literal["spelling", "pronunciation"] = "spelling"
    subset: str | None = None  # configuration of a dataset from the Hub
    data_files: tuple[str, ...] = ()  # of that dataset, as train=part-*.parquet; none: all
    # commit of a dataset from the Hub; None: the newest, which manifest.jsonl then names
    revision: str | None = None

    # train on the training split while it arrives, not after a download; loop.max_steps must be set
    streaming: bool = False
    window: int = 4096  # clips of a stream that are shuffled together; two windows lie on disk

    check: Literal["header", "decode"] = "decode"  # what the scan does; decode finds broken audio
    missing: Literal["error", "drop"] = "error"  # what to do with a row whose audio is not there
    max_broken: float = 0.01  # share of the training clips that may be broken before the run stops
    min_seconds: float = 0.1  # shorter clips are dropped
    max_seconds: float = 30.0  # clips of this length and longer are dropped: one Whisper window

    # bucket: pays for real audio alone; mixed: and for some windows of 30 s; packed: several clips
    # in each window; 30s: as stock. What each costs in error: docs/ablation.md
    pad: Literal["bucket", "mixed", "packed", "30s"] = "bucket"
    padded_share: float = 0.15  # of the compute of mixed, spent on updates padded to 30 s
    trailing_silence: float = 0.0  # share of the other updates, padded to a random length
    repair: float = 0.0  # share of short updates that also learn to decode as if padded to 30 s
    timestamps: float = 0.0  # share of rows that are trained with the times of what they say
    prompts: float = 0.0  # share of slices of recordings that are prompted with what came before
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    padding: float = 0.04  # share that longer clips may add to an update; more, and it is cut
    update_seconds: float = 120.0  # audio an update holds at most, over all processes
    update_tokens: int = 4096  # label tokens an update holds at most, over all processes
    update_clips: int | None = None  # clips an update; replaces update_seconds and update_tokens
    # padded audio a forward pass holds on one process: a memory limit. None: what
    # `python -m trainer fit` found for this GPU and model, or 480
    pass_seconds: float | None = None
    pass_tokens: int = 8192  # padded label tokens a forward pass holds on one process
    pass_quadratic: float | None = None  # seconds at which attention doubles a clip's memory
    buckets: int = 32  # of length, at most; fewer where the corpus is small
    token_buckets: int = 3  # of label tokens within each, at most

    workers: int = 2  # that decode, for each process that trains; 0: it does, and a crash ends it
    prefetch: int = 4  # batches each worker keeps ready

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        self._check_corpora()
        self._check_numbers()
        if self.streaming:
            self._check_stream()

    @property
    def sources(self) -> list[Source]:
        """Return the corpora, each with its knobs."""

        def of(values: tuple[T, ...], number: int) -> T:
            return values[0] if len(values) == 1 else values[number]

        return [
            Source(
                name=name,
                layout=of(self.layout, number),
                language=of(self.language or (None,), number),
                task=of(self.task, number),
                audio_root=of(self.audio_root or (None,), number),
            )
            for number, name in enumerate(self.corpus)
        ]

    def _check_numbers(self) -> None:
        for key in POSITIVE:
            value = getattr(self, key)
            if value is not None and not value > 0:  # so written, NaN is refused too
                raise InputError(f"data.{key} must be greater than 0, got {value}")
        if not 0 < self.max_seconds <= 30:
            raise InputError(
                f"data.max_seconds must lie between 0 and 30, got {self.max_seconds}: "
                "Whisper hears 30 seconds at a time"
            )
        for key in ("padding", "workers"):
            if not getattr(self, key) >= 0:
                raise InputError(f"data.{key} must be 0 or more, got {getattr(self, key)}")
        for key in SHARES:
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(f"data.{key} must lie between 0 and 1, got {getattr(self, key)}")

    def _check_corpora(self) -> None:
        corpora = len(self.corpus)
        for key in ("layout", "language", "task", "audio_root"):
            given = getattr(self, key)
            if corpora and len(given) > 1 and len(given) != corpora:
                raise InputError(
                    f"data.{key} has {len(given)} values for {corpora} corpora: "
                    "give one for all, or one for each"
                )
        for key in ("weights", "hours"):
            given = getattr(self, key)
            wrong = len(given) != corpora or not all(value > 0 for value in given)
            if corpora and given and wrong:
                raise InputError(
                    f"data.{key} is {list(given)} for {corpora} corpora: give each a number "
                    "greater than 0"
                )
        for key in ("train_split", "dev_split", "test_split"):
            given = getattr(self, key) or ""
            if corpora and given.count(",") not in (0, corpora - 1):
                raise InputError(
                    f"data.{key} is {given!r} for {corpora} corpora: give one for all, or one for "
                    "each, with commas between"
                )
        if self.weights and self.hours:
            raise InputError("data.weights and data.hours say the same thing twice: give one")

    def _check_stream(self) -> None:
        """A stream is one split of one corpus: what joins or weighs them needs to know their sizes.

        Raises:
            InputError: it is not.
        """
        if len(self.corpus) > 1 or "+" in self.train_split or "," in self.train_split:
            raise InputError(
                f"data.streaming reads one split of one corpus, not {self.train_split!r} of "
                f"{', '.join(self.corpus)}: name one, or set data.streaming=false"
            )
        if self.weights or self.hours:
            raise InputError(
                "data.weights and data.hours weigh corpora whose sizes are known, not a stream: "
                "leave them out, or set data.streaming=false"
            )
