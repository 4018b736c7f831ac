"""`python -m eval try A B`: a page to speak into, and what two models hear (extra page: Gradio)."""

import os
from dataclasses import dataclass, field
from typing import Any

import tyro

from data.errors import InputError
from eval.config import EvalConfig
from eval.device import Precision
from eval.transcribe.audio_files import find
from eval.transcribe.command import loaded, spoken
from eval.transcribe.transcriber import FasterWhisperTranscriber, Transcriber, decoded, transcripts


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
    """Serve the page until somebody presses Ctrl-C.

    Raises:
        InputError: Gradio or a model is not there, or the port is taken.
    """
    served = page(command)
    try:
        served.launch(server_name="127.0.0.1", server_port=command.port)
    except OSError as error:
        raise InputError(f"port {command.port} is taken: set another with --port") from error


def page(command: TryCommand) -> Any:
    """Return the page, as Gradio's Interface.

    Raises:
        InputError: Gradio or a model is not there.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nobody is told of it
    try:
        import gradio
    except ImportError as error:
        raise InputError('the page needs Gradio: pip install "whisper-loop[page]"') from error
    names = (command.a, command.b)
    scribes = [loaded(name, command.eval, command.precision) for name in names]

    def hear(path: str | None) -> list[str]:
        try:
            return [said(scribe, path, command.language) for scribe in scribes]
        except InputError as error:
            raise gradio.Error(str(error)) from error

    return gradio.Interface(
        fn=hear,
        inputs=gradio.Audio(type="filepath", label="Speak, or drop a file"),
        outputs=[gradio.Textbox(label=name, lines=3) for name in names],
        title="What two models hear",
        flagging_mode="never",
        api_name="hear",
    )


def said(
    scribe: Transcriber | FasterWhisperTranscriber, path: str | None, language: str | None
) -> str:
    """Return what a model hears in a file of any length.

    Raises:
        InputError: there is no file, or no audio in it.
    """
    if path is None:
        raise InputError("nothing to hear: record something, or drop a file")
    sources, failures = find([path])
    code = spoken(scribe.whisper, language, "transcribe")
    texts = [t.text for t in transcripts(scribe, decoded(sources, code, "transcribe", failures), 1)]
    if failures:
        raise InputError(failures[0].reason)
    return texts[0]
