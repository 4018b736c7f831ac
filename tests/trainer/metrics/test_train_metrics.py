"""Rates are sums divided once; FLOPs follow the shapes."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from data.batch import IGNORE_INDEX, Batch, Position, target_positions
from data.errors import InputError
from trainer.metrics.flops import Peak, WhisperFlops, peak_flops
from trainer.metrics.train_metrics import LogConfig, TrainMetrics, peak_memory
from trainer.step import StepResult

CPU = torch.device("cpu")
PEAK = Peak(CPU, 1e18, "data sheet")
SMALL = WhisperFlops(d_model=768, encoder_layers=12, decoder_layers=12, n_mels=80, vocabulary=51865)


def batch(seconds: list[float], tokens: list[int], frames: int) -> Batch:
    """Return a batch of these lengths."""
    longest = max(tokens)
    labels = torch.full((len(tokens), longest), IGNORE_INDEX)
    for row, count in zip(labels, tokens, strict=True):
        row[:count] = 1
    return Batch(
        ids=[str(i) for i in range(len(seconds))],
        languages=["en"] * len(seconds),
        tasks=["transcribe"] * len(seconds),
        features=torch.zeros(len(seconds), 80, frames),
        decoder_input_ids=labels.clamp(min=0),
        labels=labels,
        targets=target_positions(labels),
        seconds=seconds,
        tokens=tokens,
        position=Position(0, 0),
        next_position=Position(0, 1),
        is_last=True,
    )


def result(loss: float, finite: bool = True) -> StepResult:
    """Return a result with this summed loss."""
    return StepResult(
        loss=torch.tensor(loss),
        nll=[],
        grad_norm=torch.tensor(2.0),
        finite=torch.tensor(finite),
    )


def test_a_line_weighs_updates_by_their_tokens_and_padding_by_positions() -> None:
    meter = TrainMetrics(Accelerator(cpu=True), SMALL, PEAK)
    meter.add([batch([2.0, 1.0], [4, 2], 200)], result(12.0))
    meter.add([batch([1.0], [2], 400)], result(16.0))
    metrics = meter.read()
    assert metrics["train/loss"] == pytest.approx(28 / 8)
    assert metrics["speed/encoder_padding"] == pytest.approx(1 - 200 / 400)
    assert metrics["speed/decoder_padding"] == pytest.approx(1 - 8 / 10)
    assert metrics["train/grad_norm"] == 2.0
    assert 0 < metrics["speed/mfu"] < metrics["speed/hfu"]  # what is computed holds the padding


def test_an_update_that_was_not_made_has_no_loss() -> None:
    meter = TrainMetrics(Accelerator(cpu=True), SMALL, PEAK)
    meter.add([batch([1.0], [4], 100)], result(12.0))
    meter.add([batch([1.0], [9], 100)], result(float("nan"), finite=False))
    assert meter.read()["train/loss"] == pytest.approx(12 / 4)


def test_waiting_counts_and_pauses_do_not() -> None:
    meter = TrainMetrics(Accelerator(cpu=True), SMALL, PEAK)
    meter.add([batch([1.0], [2], 100)], result(1.0))
    with meter.paused():
        torch.randn(400, 400) @ torch.randn(400, 400)
    metrics = meter.read()
    assert 0 <= metrics["speed/data_wait"] < 1
    with meter.waiting():
        pass
    assert meter.read()["speed/clips_per_second"] == 0


def test_weightless_clips_count_as_padding() -> None:
    meter = TrainMetrics(Accelerator(cpu=True), SMALL, PEAK)
    meter.add([batch([1.0, 0.0], [2, 0], 100)], result(1.0))
    assert meter.read()["speed/encoder_padding"] == pytest.approx(0.5)


def test_flops_agree_with_the_published_arithmetic_of_whisper_small() -> None:
    assert SMALL.encoder(1500) == pytest.approx(344.2e9, rel=1e-3)
    assert SMALL.decoder(1500, 124) == pytest.approx(84.3e9, rel=1e-3)
    assert SMALL.train([(30.0, 124)]) == pytest.approx(3 * (344.2e9 + 84.3e9), rel=1e-3)


def test_a_frozen_encoder_is_paid_once() -> None:
    config = SimpleNamespace(
        d_model=768, encoder_layers=12, decoder_layers=12, num_mel_bins=80, vocab_size=51865
    )
    frozen = WhisperFlops.from_config(config, frozen_encoder=True)
    saved = SMALL.train([(5.0, 24)]) - frozen.train([(5.0, 24)])
    assert saved == pytest.approx(2 * SMALL.encoder(250))


def test_an_unknown_peak_is_measured_and_says_so() -> None:
    peak, source = peak_flops(torch.device("cpu"))
    assert peak > 1e9
    assert source == "measured"
    assert peak_memory(torch.device("cpu")) > 10_000_000


def test_a_peak_that_is_exceeded_is_measured_again() -> None:
    peak = Peak(CPU, 1.0, "measured")  # of a machine that was busy with something else
    shares = peak.utilization(model=1e3, hardware=2e3)
    assert peak.per_second > 1e9
    assert shares == (1e3 / peak.per_second, 2e3 / peak.per_second)


def test_no_share_above_all_of_it_is_ever_told() -> None:
    peak = Peak(CPU, 1.0, "measured")
    assert peak.utilization(model=1e17, hardware=2e17) is None  # busy again, or still
    assert Peak(CPU, 10.0, "data sheet").utilization(model=9.0, hardware=11.0) is None
    assert Peak(CPU, 10.0, "data sheet").utilization(model=9.0, hardware=10.0) == (0.9, 1.0)


def test_a_line_whose_peak_is_not_known_has_no_share() -> None:
    meter = TrainMetrics(Accelerator(cpu=True), SMALL, Peak(CPU, 1e3, "data sheet"))
    meter.add([batch([30.0] * 9, [9] * 9, 3000)], result(1.0))
    metrics = meter.read()
    assert metrics.keys().isdisjoint({"speed/mfu", "speed/hfu"})
    assert metrics["speed/flops_per_second"] >= metrics["speed/useful_flops_per_second"] > 1e3


def test_values_that_could_not_work_are_refused() -> None:
    with pytest.raises(InputError, match=r"log\.log_every"):
        LogConfig(log_every=0)
