"""`python -m eval transcribe AUDIO … --model RUN`: transcribe files to text or subtitles."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import tyro
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from data.atomic_files import write_text
from data.config import Task
from data.errors import InputError
from data.log_mel import CHUNK_SECONDS
from eval.config import EvalConfig
from eval.device import Precision
from eval.faster_whisper_model import FasterWhisperModel, is_faster_whisper_model
from eval.transcribe.audio_files import Failure, check_output_names, find_audio
from eval.transcribe.subtitles import srt, vtt
from eval.transcribe.transcriber import (
    FasterWhisperTranscriber,
    Transcriber,
    Transcript,
    load_clips,
    transcribe_clips,
)
from eval.whisper import Whisper

BATCH_SECONDS = 480.0  # decoded together by default: texts are shown when their batch ends
MAX_NAMED = 5  # failures that the error message lists


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscribeCommand:
    """Transcribe audio files to text or subtitles."""

    audio: tyro.conf.Positional[tuple[str, ...]]  # Audio files, folders, or patterns in quotes.
    # A run's folder, a model's folder, a CTranslate2 model's folder, or a name on the Hub.
    model: str
    # Output formats. All but txt have timestamps.
    format: tuple[Literal["txt", "srt", "vtt", "json"], ...] = ("txt",)
    out: str | None = None  # Folder that gets a file in each format. None prints, in one format.
    # Whisper's code of the language. None is the model's own, or what it detects.
    language: str | None = None
    task: Task = "transcribe"  # Transcribe, or translate to English.
    # Number format. auto takes bf16 or fp16 on a GPU, and fp32 on a CPU.
    precision: Precision = "auto"
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InputError: there is no audio, or several formats would be printed.
        """
        if not self.audio:
            raise InputError("nothing to transcribe: give audio files, folders or patterns")
        if self.out is None and len(self.format) != 1:
            formats = " ".join(self.format)
            raise InputError(f"format {formats}: only one can be printed; set out to a folder")


def transcribe_files(command: TranscribeCommand) -> None:
    """Transcribe all readable files, print or write the transcripts, then report failures.

    Raises:
        InputError: the model cannot be loaded, or some audio could not be transcribed.
    """
    sources, failures = find_audio(command.audio)
    if command.out is not None:
        check_output_names(sources)
        _make_folder(Path(command.out))
    elif len(sources) > 1 and command.format != ("txt",):
        raise InputError(
            f"{len(sources)} files as {command.format[0]} cannot be printed: set out to a folder"
        )
    if sources:
        timed = command.eval.timestamps or command.format != ("txt",)
        config = replace(command.eval, timestamps=timed)
        transcriber = load_transcriber(command.model, config, command.precision)
        language = resolve_language(transcriber.whisper, command.language, command.task)
        clips = load_clips(sources, language, command.task, failures)
        batch_size = max(1, int((command.eval.batch_seconds or BATCH_SECONDS) / CHUNK_SECONDS))
        for transcript in transcribe_clips(transcriber, clips, batch_size):
            _output(transcript, command, with_names=len(sources) > 1)
    if failures:
        raise InputError(_failure_message(failures))


def resolve_language(
    whisper: Whisper | FasterWhisperModel, language: str | None, task: str
) -> str | None:
    """Return the language code to decode in, or None to detect it.

    Args:
        language: code or English name of a language; None for the model's own.
        task: transcribe or translate.

    Raises:
        InputError: the model does not know the language, or cannot translate.
    """
    if not whisper.multilingual:
        if task != "transcribe" or language not in (None, "en", "english"):
            raise InputError(
                f"model {whisper.name!r} is English-only: language must be en (got {language}) "
                f"and task transcribe (got {task})"
            )
        return "en"
    if language is None:
        return whisper.language
    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    if f"<|{code}|>" not in whisper.labels().vocabulary:
        raise InputError(
            f"the model {whisper.name!r} does not support language {language!r}: use one of "
            "Whisper's codes, such as en, zh, yue or ko"
        )
    return code


def load_transcriber(
    name: str, config: EvalConfig, precision: Precision
) -> Transcriber | FasterWhisperTranscriber:
    """Load the model of a run, a model folder, a name on the Hub, or a CTranslate2 model.

    Raises:
        InputError: the model cannot be loaded, or does not support the config.
    """
    model = resolve_model(name)
    if is_faster_whisper_model(model):
        return FasterWhisperTranscriber(model, config, precision)
    return Transcriber(model, config, precision)


def resolve_model(name: str) -> str:
    """Return RUN/model for the folder of a run, and other names unchanged.

    Raises:
        InputError: the run has not exported a model yet.
    """
    folder = Path(name)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return name
    if (folder / "model").is_dir():
        return str(folder / "model")
    if (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder}: this run has written no model yet: it writes one when the dev score "
            "improves, and at its end; continue it with --resume=auto"
        )
    return name


def _output(transcript: Transcript, command: TranscribeCommand, *, with_names: bool) -> None:
    """Write a transcript in each format, or print it, below its file's name if with_names."""
    for suffix in command.format:
        text = _formatted(suffix, transcript, command)
        if command.out is not None:
            path = Path(command.out) / f"{transcript.source.name}.{suffix}"
            write_text(path, text)
            print(path, flush=True)
        else:
            head = f"{transcript.source.path}:\n" if with_names else ""
            print(head + text, end="", flush=True)


def _formatted(suffix: str, transcript: Transcript, command: TranscribeCommand) -> str:
    """Return a transcript as txt, srt, vtt or json."""
    if suffix == "srt":
        return srt(transcript.segments)
    if suffix == "vtt":
        return vtt(transcript.segments)
    if suffix == "txt":
        return f"{transcript.text}\n"
    content = {
        "audio": str(transcript.source.path),
        "model": command.model,
        "seconds": round(transcript.seconds, 3),
        "language": transcript.language,
        "task": command.task,
        "text": transcript.text,
        "truncated": transcript.truncated,
        "segments": [segment._asdict() for segment in transcript.segments],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _make_folder(folder: Path) -> None:
    """Create the output folder.

    Raises:
        InputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"out {folder}: the folder cannot be created: {error.strerror}; name another"
        ) from error


def _failure_message(failures: Sequence[Failure]) -> str:
    reasons = "; ".join(f"{failure.name}: {failure.reason}" for failure in failures[:MAX_NAMED])
    more = f"; and {len(failures) - MAX_NAMED} more" if len(failures) > MAX_NAMED else ""
    return f"{len(failures)} not transcribed: {reasons}{more}"
