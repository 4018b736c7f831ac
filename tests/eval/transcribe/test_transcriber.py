"""What transcribing a file costs."""

from pathlib import Path

import pytest
import torch

from data.utterance import Utterance
from eval.config import EvalConfig
from eval.transcribe.audio_files import Source
from eval.transcribe.transcriber import Transcriber

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("pad", ["30s", "bucket"])
@pytest.mark.parametrize("language", [None, "en"])
def test_the_encoder_runs_once_for_each_clip(
    blank_model: Path, pad: str, language: str | None
) -> None:
    config = EvalConfig(max_length=4, pad=pad)  # type: ignore[arg-type]
    transcriber = Transcriber(str(blank_model), config, "fp32")
    rows: list[int] = []
    encoder = transcriber.whisper.model.model.encoder
    encoder.register_forward_hook(lambda _, __, out: rows.append(len(out.last_hidden_state)))
    samples = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    clips = [
        (
            Source(Path(name), name),
            Utterance(id=name, audio=name, text="", seconds=1.0, language=language),
            samples,
        )
        for name in ("a", "b")
    ]
    found = transcriber.transcribe(clips)
    assert sum(rows) == 2  # also where the language was detected
    assert all(u.language in {"en", "zh"} for u, _ in found)
