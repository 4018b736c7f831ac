"""The knobs of the data: one line each."""

from dataclasses import dataclass, field
from typing import Literal, TypeVar

from data.audio.augment import AugmentConfig
from data.errors import InputError

MAX_SECONDS_PER_FORWARD = 480.0  # where nobody has set or found another
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
    "max_seconds_per_forward",
    "max_tokens_per_forward",
    "quadratic_memory_seconds",
    "buckets",
    "token_buckets",
    "prefetch",
    "shuffle_buffer",
)
SHARES = (
    "trailing_silence",
    "timestamp_probability",
    "prompt_probability",
    "max_broken_share",
)


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
    """The corpus, and how it is batched."""

    # Folders, manifests or names on the Hugging Face Hub. Several are joined (docs/data.md).
    corpus: tuple[str, ...] = ()
    # How a corpus is laid out, one for all corpora or one for each. auto recognises it by its files
    # (docs/data.md).
    layout: tuple[Layout, ...] = ("auto",)
    # Split to train on. + joins splits, as in train+dev. Corpora that name theirs differently take
    # one each, with commas between. Leave the place of a corpus without this split empty.
    train_split: str = "train"
    # Split that is evaluated during training and chooses the best model. None chooses none, and the
    # last model is kept.
    dev_split: str | None = "dev"
    # Split that is scored before and after training. None scores none.
    test_split: str | None = "test"
    # Whisper's code of the spoken language, one for all corpora or one for each. None takes what
    # the corpus says, row by row.
    language: tuple[str, ...] = ()
    # Whisper's task, one for all corpora or one for each. With translate the texts are English.
    task: tuple[Task, ...] = ("transcribe",)
    # How often an epoch contains each corpus. 2 is twice, and 0.5 is half of it, the other half in
    # the next epoch. None is once.
    weights: tuple[float, ...] = ()
    # Hours of each corpus in an epoch, in place of data.weights.
    hours_per_epoch: tuple[float, ...] = ()
    # Column with the transcript. auto takes sentence, text, transcription or transcript.
    text_column: str = "auto"
    # Column with the language. auto takes locale, language or lang_id, if it holds text.
    language_column: str = "auto"
    # Column with the speaker. auto takes client_id, speaker_id or speaker, if it holds text.
    speaker_column: str = "auto"
    audio_column: str = "audio"  # Column with the audio, in a dataset on the Hub.
    # Folder that a manifest's paths are relative to and may not leave, one for all corpora or one
    # for each. None is the manifest's own folder. A manifest cannot set it, since its author could
    # then choose which files are read.
    audio_root: tuple[str, ...] = ()
    # Which of KsponSpeech's two transcripts, (spelling)/(pronunciation), is used for training and
    # scoring (docs/ksponspeech.md).
    spelling: Literal["spelling", "pronunciation"] = "spelling"
    subset: str | None = None  # Configuration (subset) of a dataset on the Hub.
    # Files to read of a dataset on the Hub, such as train=part-*.parquet. None reads all.
    data_files: tuple[str, ...] = ()
    # Commit of a dataset on the Hub. None takes the newest one, and manifest.jsonl names it.
    revision: str | None = None

    # Train while the training split downloads, instead of after (docs/data.md). Set max_steps too.
    streaming: bool = False
    # Clips of a stream that are shuffled together. Twice as many are kept on disk.
    shuffle_buffer: int = 4096

    # How clips are checked before training. header reads lengths; decode also finds broken audio.
    scan: Literal["header", "decode"] = "decode"
    # What to do with rows whose audio file does not exist: stop, or drop them.
    missing_audio: Literal["error", "drop"] = "error"
    # Share of the training clips that may be broken before the run stops.
    max_broken_share: float = 0.01
    min_seconds: float = 0.1  # Clips shorter than this are dropped.
    # Clips of this length and longer are dropped. Whisper's encoder takes 30 seconds at most.
    max_seconds: float = 30.0

    # What clips are padded to (docs/ablation.md). bucket pads to the length of similar clips and
    # costs least. packed joins several clips to 30 s, for timestamps and long audio; very short
    # clips are learned worse. 30s pads each clip to 30 s, as stock Whisper does.
    pad: Literal["bucket", "packed", "30s"] = "bucket"
    # Share of the updates of bucket that are padded with silence to a random length.
    trailing_silence: float = 0.0
    # Probability that a row's labels have timestamps.
    timestamp_probability: float = 0.0
    # Probability that a slice of a recording is prompted with the text before it.
    prompt_probability: float = 0.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    # Share of an update's audio that padding may add. Above it the update is cut into more forward
    # passes, each of more similar lengths.
    max_padding: float = 0.04
    update_seconds: float = 120.0  # Seconds of audio in an update at most, over all processes.
    update_tokens: int = 4096  # Label tokens in an update at most, over all processes.
    # Clips in an update, over all processes, in place of update_seconds and update_tokens.
    update_clips: int | None = None
    fixed_shapes: bool | None = None  # Few shapes of passes (docs/data.md). None: on a GPU.
    # Seconds of padded audio in a forward pass of one process at most, which limits memory. None is
    # what `python -m trainer find-batch-size` found for this GPU and model, or 480.
    max_seconds_per_forward: float | None = None
    # Padded label tokens in a forward pass of one process at most.
    max_tokens_per_forward: int = 8192
    # A clip of s seconds counts as s + s²/this value, since attention needs more memory for long
    # clips. `python -m trainer find-batch-size` measures it. None counts s.
    quadratic_memory_seconds: float | None = None
    buckets: int = 32  # Length buckets at most, without fixed_shapes. A small corpus gets fewer.
    token_buckets: int = 3  # Buckets by number of label tokens within each length bucket, at most.

    # Processes that decode audio, for each training process. 0 decodes in the training process,
    # which then ends if a decoder crashes.
    workers: int = 2
    prefetch: int = 4  # Batches that each worker keeps ready.

    def __post_init__(self) -> None:
        """Check the values.

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
                "Whisper's encoder takes 30 seconds at a time"
            )
        for key in ("max_padding", "workers"):
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
        for key in ("weights", "hours_per_epoch"):
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
        if self.weights and self.hours_per_epoch:
            raise InputError(
                "data.weights and data.hours_per_epoch say the same thing twice: give one"
            )

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
        if self.weights or self.hours_per_epoch:
            raise InputError(
                "data.weights and data.hours_per_epoch need corpora of known sizes, not a stream: "
                "leave them out, or set data.streaming=false"
            )
