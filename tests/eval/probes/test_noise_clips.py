"""The generated noise clips have the spectra that their names say, and are reproducible."""

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from data.config import DataConfig
from data.corpora import read
from data.log_mel import SAMPLE_RATE
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.probes.noise_clips import SOUNDS, generate_noise, noise_utterances, transcribe_noise
from eval.whisper import load_whisper

SET = {u.id: u for u in noise_utterances("en")}


def power(samples: Tensor, low: float, high: float) -> float:
    """Return the mean power between two frequencies."""
    spectrum = torch.fft.rfft(samples.double()).abs().square()
    hertz = torch.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return float(spectrum[(hertz >= low) & (hertz < high)].mean())


def octaves(name: str) -> float:
    """Return by how many dB power falls from one octave to the next, between 100 and 6400 Hz."""
    samples = generate_noise(SET[name])
    return 10 * math.log10(power(samples, 100, 200) / power(samples, 3200, 6400)) / 5


def test_the_set_is_small_and_of_all_lengths() -> None:
    seconds = [u.seconds for u in SET.values()]
    assert len(SET) == len(SOUNDS) == 12
    assert (min(seconds), max(seconds)) == (1.0, 30.0)
    assert all(u.text == "" and u.language == "en" for u in SET.values())


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_is_the_same_every_time_and_fits_in_16_bits(name: str) -> None:
    samples = generate_noise(SET[name])
    torch.manual_seed(1)
    assert torch.equal(generate_noise(SET[name]), samples)
    assert samples.dtype == torch.float32
    assert len(samples) == SET[name].seconds * SAMPLE_RATE
    assert torch.equal((samples * 2**15).round() / 2**15, samples)
    assert -1 <= float(samples.min()) <= float(samples.max()) < 1
    assert name.startswith("silence") == (not samples.any())


def test_noises_have_their_colours() -> None:
    assert octaves("white-2s") == pytest.approx(0, abs=0.3)
    assert octaves("pink-4s") == pytest.approx(3, abs=0.3)  # 1 / f
    assert octaves("pink-30s") == pytest.approx(3, abs=0.3)
    assert octaves("brown-15s") == pytest.approx(6, abs=0.3)


def test_noises_are_as_loud_as_meant() -> None:
    for name, loudness in (("white-quiet-5s", 0.001), ("white-2s", 0.1), ("pink-4s", 0.03)):
        assert float(generate_noise(SET[name]).std()) == pytest.approx(loudness, rel=0.02)


def test_a_hum_and_a_tone_are_at_their_frequencies() -> None:
    for name, hertz in (("hum-6s", 50), ("tone-3s", 1000)):
        samples = generate_noise(SET[name])
        at = [power(samples, n * hertz - 1, n * hertz + 1) for n in (1, 2, 3, 5)]
        assert at[0] > at[2] > at[3] > 1e4 * at[1]


def test_clicks_are_rare_and_babble_swells_and_pauses() -> None:
    clicks = generate_noise(SET["clicks-8s"])
    assert int((clicks != 0).sum()) == math.ceil(8 / 0.7)
    babble = generate_noise(SET["babble-12s"])
    assert not babble[round(2.3 * SAMPLE_RATE) : round(2.9 * SAMPLE_RATE)].any()
    pieces = babble[: SAMPLE_RATE * 2].unfold(0, 800, 800).std(dim=1)  # 50 ms
    assert float(pieces.max()) > 5 * float(pieces.min())


def test_noise_is_transcribed_with_the_settings_of_the_evaluation(
    blank_model: Path, tone_corpus: Path
) -> None:
    whisper, data = load_whisper(str(blank_model)), DataConfig(corpus=(str(tone_corpus),))
    evaluator = Evaluator(
        accelerator=Accelerator(cpu=True),
        whisper=whisper,
        data=data,  # with workers: they do not start for this
        config=EvalConfig(max_length=4),
    )
    rows = list(read(data, "test"))[:1]
    _, heard = Evaluator.evaluate(evaluator, rows, "", true_length=True)
    noise = transcribe_noise(evaluator, heard, true_length=True)
    assert [h.utterance.id for h in noise] == list(SOUNDS)
    assert [h.text for h in noise] == [
        h.text for h in transcribe_noise(evaluator, heard, true_length=True)
    ]
    silent = Evaluator(
        accelerator=evaluator.accelerator,
        whisper=whisper,
        data=data,
        config=EvalConfig(non_speech=False),
    )
    assert transcribe_noise(silent, heard, true_length=True) == []
    assert transcribe_noise(evaluator, [], true_length=True) == []
