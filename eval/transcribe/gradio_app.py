"""`python -m eval try A B`: a Gradio page that transcribes speech with two models (extra page)."""

import os
from dataclasses import dataclass, field
from typing import Any

import tyro

from data.errors import InputError
from eval.config import EvalConfig
from eval.device import Precision
from eval.transcribe.audio_files import find_audio
from eval.transcribe.command import load_transcriber, resolve_language
from eval.transcribe.transcriber import (
    FasterWhisperTranscriber,
    Transcriber,
    load_clips,
    transcribe_clips,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TryCommand:
    """Record speech in a browser and compare two models' transcripts."""

    a: tyro.conf.Positional[str]  # A run's folder, a model's folder, or a name on the Hub.
    b: tyro.conf.Positional[str]  # The second model, in the same way.
    # Whisper's code of the language. None is each model's own, or what it detects.
    language: str | None = None
    port: int = 7860  # Port of the page. Only this machine can open it.
    # Number format. auto takes bf16 or fp16 on a GPU, and fp32 on a CPU.
    precision: Precision = "auto"
    eval: EvalConfig = field(default_factory=EvalConfig)


def try_out(command: TryCommand) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        InputError: Gradio is not installed, a model cannot be loaded, or the port is in use.
    """
    interface = build_page(command)
    try:
        interface.launch(server_name="127.0.0.1", server_port=command.port)
    except OSError as error:
        raise InputError(f"port {command.port} is taken: set another with --port") from error


def build_page(command: TryCommand) -> Any:
    """Load both models and return the page, a gradio.Interface.

    Raises:
        InputError: Gradio is not installed, or a model cannot be loaded.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no telemetry
    try:
        import gradio
    except ImportError as error:
        raise InputError('the page needs Gradio: pip install "whisper-loop[page]"') from error
    names = (command.a, command.b)
    transcribers = [load_transcriber(name, command.eval, command.precision) for name in names]

    def transcribe_with_both(path: str | None) -> list[str]:
        try:
            return [transcribe_file(t, path, command.language) for t in transcribers]
        except InputError as error:
            raise gradio.Error(str(error)) from error

    return gradio.Interface(
        fn=transcribe_with_both,
        inputs=gradio.Audio(type="filepath", label="Speak, or drop a file"),
        outputs=[gradio.Textbox(label=name, lines=3) for name in names],
        title="Transcripts of two models",
        flagging_mode="never",
        api_name="transcribe",
    )


def transcribe_file(
    transcriber: Transcriber | FasterWhisperTranscriber, path: str | None, language: str | None
) -> str:
    """Return the transcript of a file of any length.

    Raises:
        InputError: there is no file, or it cannot be read.
    """
    if path is None:
        raise InputError("there is no audio: record something, or drop a file")
    sources, failures = find_audio([path])
    code = resolve_language(transcriber.whisper, language, "transcribe")
    clips = load_clips(sources, code, "transcribe", failures)
    texts = [transcript.text for transcript in transcribe_clips(transcriber, clips, 1)]
    if failures:
        raise InputError(failures[0].reason)
    return texts[0]
