"""`python -m eval transcribe AUDIO … --model RUN`: what is said in files, as text or subtitles."""

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
from eval.transcribe.audio_files import Failure, find, refuse_clashes
from eval.transcribe.subtitles import srt, vtt
from eval.transcribe.transcriber import (
    FasterWhisperTranscriber,
    Transcriber,
    Transcript,
    decoded,
    transcripts,
)
from eval.whisper import Whisper

MOST_NAMED = 5  # failures in the sentence at the end


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
        """Refuse what could not be told apart once it is printed.

        Raises:
            InputError: nothing is named, or several formats are to be printed.
        """
        if not self.audio:
            raise InputError("nothing to transcribe: name files, folders or patterns of audio")
        if self.out is None and len(self.format) != 1:
            raise InputError(
                f"format {' '.join(self.format)}: one can be printed; set out to a folder"
            )


def transcribe_files(command: TranscribeCommand) -> None:
    """Transcribe what can be, print or write it, and name what could not.

    Raises:
        InputError: there is no such model, or some audio could not be transcribed.
    """
    sources, failures = find(command.audio)
    if command.out is not None:
        refuse_clashes(sources)
        _make(Path(command.out))
    elif len(sources) > 1 and command.format != ("txt",):
        raise InputError(
            f"{len(sources)} files as {command.format[0]} cannot be printed: set out to a folder"
        )
    if sources:
        timed = command.eval.timestamps or command.format != ("txt",)
        config = replace(command.eval, timestamps=timed)
        scribe = loaded(command.model, config, command.precision)
        language = spoken(scribe.whisper, command.language, command.task)
        clips = decoded(sources, language, command.task, failures)
        size = max(1, int(command.eval.batch_seconds / CHUNK_SECONDS))
        for transcript in transcripts(scribe, clips, size):
            _deliver(transcript, command, named=len(sources) > 1)
    if failures:
        raise InputError(_told(failures))


def spoken(whisper: Whisper | FasterWhisperModel, language: str | None, task: str) -> str | None:
    """Return the code of the language that a model is told; None: it shall find out.

    Raises:
        InputError: it does not know the language, or cannot translate.
    """
    if not whisper.multilingual:
        if task != "transcribe" or language not in (None, "en", "english"):
            raise InputError(
                f"model {whisper.name!r} is English-only: it can neither be told another language "
                f"than en (got {language}) nor to translate"
            )
        return "en"
    if language is None:
        return whisper.language
    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    if f"<|{code}|>" not in whisper.labels().vocabulary:
        raise InputError(
            f"language {language!r} is unknown to the model {whisper.name!r}: take one of "
            "Whisper's codes, such as en, zh, yue or ko"
        )
    return code


def loaded(
    name: str, config: EvalConfig, precision: Precision
) -> Transcriber | FasterWhisperTranscriber:
    """Load what a person names: a run, a model, or what CTranslate2 made of one.

    Raises:
        InputError: it is not there, or not made for what is asked.
    """
    folder = model_of(name)
    kind = FasterWhisperTranscriber if is_faster_whisper_model(folder) else Transcriber
    return kind(folder, config, precision)


def model_of(name: str) -> str:
    """Return the model's folder where a run's is named.

    Raises:
        InputError: the run has not written one yet.
    """
    folder = Path(name)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return name
    if (folder / "model").is_dir():
        return str(folder / "model")
    if (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder}: this run has written no model yet: it does when dev gets better, or at its "
            "end; --resume=auto goes on with it"
        )
    return name


def _deliver(transcript: Transcript, command: TranscribeCommand, *, named: bool) -> None:
    """Write a transcript in each format, or print it; named: below the name of its file."""
    for kind in command.format:
        text = _as(kind, transcript, command)
        if command.out is not None:
            path = Path(command.out) / f"{transcript.source.name}.{kind}"
            write_text(path, text)
            print(path, flush=True)
        else:
            head = f"{transcript.source.path}:\n" if named else ""
            print(head + text, end="", flush=True)


def _as(kind: str, transcript: Transcript, command: TranscribeCommand) -> str:
    """Return a transcript in a format."""
    if kind == "srt":
        return srt(transcript.segments)
    if kind == "vtt":
        return vtt(transcript.segments)
    if kind == "txt":
        return f"{transcript.text}\n"
    told = {
        "audio": str(transcript.source.path),
        "model": command.model,
        "seconds": round(transcript.seconds, 3),
        "language": transcript.language,
        "task": command.task,
        "text": transcript.text,
        "truncated": transcript.truncated,
        "segments": [each._asdict() for each in transcript.segments],
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def _make(folder: Path) -> None:
    """Make the folder for what is written.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"out {folder}: no such folder can be made: {error.strerror}; name another"
        ) from error


def _told(failures: Sequence[Failure]) -> str:
    told = "; ".join(f"{each.named}: {each.reason}" for each in failures[:MOST_NAMED])
    more = f"; and {len(failures) - MOST_NAMED} more" if len(failures) > MOST_NAMED else ""
    return f"{len(failures)} not transcribed: {told}{more}"
