"""What a Whisper that was never trained on short input makes of it, alone and with silence behind.

    python tests/benchmark/hush.py --model=tiny.en --corpus=FOLDER/prompts/en

Error and gradient of clips at their own length: alone, with some seconds of silence, and with the
states of silence that eval/silence_states.py lets attention read. docs/ablation.md shows it.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # after this folder: its files

import torch
from measure import screen
from rich.table import Table
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from data.atomic_files import write_json
from data.audio.decode import load_audio
from data.batching.collate import pad_waveforms
from data.config import DataConfig
from data.config_parser import parse_dataclass
from data.errors import plain_errors
from data.log_mel import CHUNK_SECONDS, LogMel
from data.manifest import read_held_out, scan_cache_path
from data.sampling.padded_length import padded_frames
from data.utterance import Utterance
from eval.metrics.normalize import normalizer_for
from eval.metrics.units import unit_of
from eval.metrics.wer import character_errors, word_errors
from eval.silence_states import compute_silence_states, set_silence_states
from eval.whisper import Whisper, load_whisper

SILENCES = (0.0, 0.5, 2.0, 8.0, float(CHUNK_SECONDS))  # seconds
PARTS = {  # of the model, by what names of their parameters hold
    "convolutions": "encoder.conv",
    "encoder's attention": "encoder.layers.*.self_attn.",
    "encoder's MLPs": "encoder.layers.*.fc",
    "decoder": "decoder.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Decode and differentiate the first clips of a test split."""

    model: str  # a folder, or a name on the Hub
    corpus: str  # a folder, a manifest or a Hub name
    language: str = "en"  # Whisper's code
    clips: int = 24
    out: str = "runs/hush.json"


def main() -> None:
    """Measure, write and show."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        whisper = load_whisper(command.model)
        whisper.model.eval()
        clips = chosen(command, whisper)
        told: dict[str, Any] = {"command": sys.argv[1:], "error": {}, "cosine": {}}
        for seconds in SILENCES:
            told["error"][f"{seconds:g} s"] = error(whisper, clips, seconds)
        padded = gradient(whisper, clips, float(CHUNK_SECONDS))
        told["cosine"]["alone"] = cosines(gradient(whisper, clips, 0.0), padded)
        set_silence_states(whisper.model, compute_silence_states(whisper.model))
        told["error"]["0 s, states of silence"] = error(whisper, clips, 0.0)
        told["cosine"]["states of silence"] = cosines(gradient(whisper, clips, 0.0), padded)
        write_json(Path(command.out), told)
        for table in tables(told):
            screen().print(table)


def chosen(command: Command, whisper: Whisper) -> list[Utterance]:
    """Return clips, the shortest first, none over 29 s."""
    data = DataConfig(corpus=(command.corpus,), language=(command.language,), workers=0)
    cache = scan_cache_path(Path(command.out).parent, data)
    rows, _ = read_held_out(data, whisper.labels(), cache, split="test", show=False)
    kept = [u for u in rows if u.seconds < CHUNK_SECONDS - 1]
    return sorted(kept[: command.clips], key=lambda u: u.seconds)


def encoded(whisper: Whisper, clip: Utterance, seconds: float) -> Tensor:
    """Return the encoder's states of a clip with so much silence behind, up to 30 s."""
    frames = padded_frames(min(float(CHUNK_SECONDS), clip.seconds + seconds))
    states: Tensor = whisper.model.model.encoder(
        LogMel(whisper.n_mels)(pad_waveforms([load_audio(clip)], frames))
    ).last_hidden_state
    return states


def error(whisper: Whisper, clips: Sequence[Utterance], seconds: float) -> float:
    """Return the error rate of greedy texts: of words, or characters where they have no spaces."""
    options = {"language": clips[0].language, "task": "transcribe"} if whisper.multilingual else {}
    texts = []
    for clip in clips:
        with torch.inference_mode():
            states = BaseModelOutput(last_hidden_state=encoded(whisper, clip, seconds))
            ids = whisper.model.generate(
                encoder_outputs=states, max_new_tokens=25, num_beams=1, **options
            )
        texts += whisper.processor.batch_decode(ids, skip_special_tokens=True)
    language = clips[0].language or ""
    clean = normalizer_for("basic", language).apply
    count: Callable[..., Any] = word_errors if unit_of(language) == "word" else character_errors
    return float(count([clean(u.text) for u in clips], [clean(text) for text in texts]).rate)


def gradient(whisper: Whisper, clips: Sequence[Utterance], seconds: float) -> dict[str, Tensor]:
    """Return the gradient of the clips' negative log likelihood, by parameter."""
    model, labels = whisper.model, whisper.labels()
    model.zero_grad()
    for clip in clips:
        ids = torch.tensor([labels.encode(clip.text, clip.language or "")])
        hidden = model.model.decoder(
            input_ids=ids[:, :-1], encoder_hidden_states=encoded(whisper, clip, seconds)
        ).last_hidden_state
        logits = model.proj_out(hidden)[0]
        torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def cosines(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """Return the cosine of two gradients, by part of the model."""
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(3))
    for name in one:
        for part, pattern in PARTS.items():
            before, _, after = pattern.partition("*")
            if before in name and after in name:
                a, b = one[name].flatten(), other[name].flatten()
                sums[part] += torch.stack([a @ b, a @ a, b @ b])
    return {part: float(s[0] / (s[1] * s[2]).sqrt()) for part, s in sums.items()}


def tables(told: dict[str, Any]) -> list[Table]:
    """Return one table of errors, in percent, and one of cosines."""
    errors = Table("silence behind", "error, %", title="before any training", title_justify="left")
    for name, rate in told["error"].items():
        errors.add_row(name, f"{100 * rate:.1f}")
    shown = Table("at its own length", *PARTS, title="cosine with the gradient of padded audio")
    for name, parts in told["cosine"].items():
        shown.add_row(name, *(f"{parts[part]:.2f}" for part in PARTS))
    return [errors, shown]


if __name__ == "__main__":
    main()
