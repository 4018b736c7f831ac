"""A profile tells a person what to change."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from trainer.metrics.flops import Peak, WhisperFlops
from trainer.metrics.profiler import Profile, Update, advice, length_table

FLOPS = WhisperFlops(d_model=384, encoder_layers=4, decoder_layers=4, n_mels=80, vocabulary=51864)
PEAK = Peak(torch.device("cpu"), 1e12, "data sheet")
FINE = Update(
    seconds=0.5,
    clips=8,
    audio=39.0,
    longest=5.0,
    padded=40.0,
    largest=40.0,
    model_flops=1e11,
    hardware_flops=1.1e11,
    gigabytes=3.0,
)


def shown(table: Any) -> str:
    """Return a table as text."""
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_updates_are_grouped_by_length_and_added_up() -> None:
    updates = [replace(FINE, longest=float(i), seconds=0.1 * i) for i in range(1, 13)]
    text = shown(length_table(updates, peak=PEAK))
    assert "12 updates by length" in text
    assert "1.0 to 2.0" in text
    assert "11.0 to 12.0" in text
    assert "1.0 to 12.0" in text
    assert f"{12 * 39 / sum(u.seconds for u in updates):.1f}" in text
    assert shown(length_table([FINE], peak=PEAK)).count("5.0 to 5.0") == 2


def test_shares_above_all_of_the_peak_are_not_known() -> None:
    text = shown(length_table([FINE], peak=Peak(PEAK.device, 1e11, "data sheet")))
    assert "%" in text
    assert text.count("?") == 4
    assert "200" not in text


def test_advice_names_the_knob_and_the_dearest_comes_first() -> None:
    assert advice([FINE], wait_share=0.01, peak=PEAK) == []
    said = advice([replace(FINE, audio=30.0)], wait_share=0.4, peak=PEAK)
    assert [("data.workers" in each, "data.pad=bucket" in each) for each in said] == [
        (True, False),
        (False, True),
    ]


def test_what_is_computed_holds_padding_and_what_is_computed_twice() -> None:
    rows = [(5.0, 20), (30.0, 60)]
    assert FLOPS.hardware(rows) == FLOPS.train(rows)
    again = replace(FLOPS, gradient_checkpointing=True).hardware(rows)
    assert again == FLOPS.train(rows) * 4 / 3
    frozen = replace(FLOPS, frozen_encoder=True)
    assert frozen.hardware(rows) == frozen.train(rows)
    assert replace(frozen, gradient_checkpointing=True).hardware(rows) < again


def test_frozen_weights_need_no_gradient_of_their_own() -> None:
    rows = [(5.0, 20)]
    adapters = replace(FLOPS, frozen_weights=True)
    assert adapters.hardware(rows) == adapters.train(rows)
    assert 2 / 3 < adapters.train(rows) / FLOPS.train(rows) < 0.75  # what attends has no weights
    both = replace(adapters, frozen_encoder=True)
    assert both.train(rows) > both.encoder(250) + 2 * both.decoder(250, 20)
    assert both.train(rows) < replace(FLOPS, frozen_encoder=True).train(rows)


def test_an_evaluation_is_no_part_of_an_update(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "trace.json", print, FLOPS, PEAK)
    with profile.paused():
        time.sleep(0.2)
    assert time.perf_counter() - profile.started < 0.15
    profile.profiler.stop()
