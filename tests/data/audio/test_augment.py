"""Augmentation: off unless asked for, and a pure function of seed, epoch and utterance."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.audio.augment import (
    NO_AUGMENTATION,
    Augmentation,
    AugmentConfig,
    add_noise,
    change_speed,
    change_volume,
    find_noise_files,
    mask_features,
    sample_noise,
)
from data.batch import Batch, Mask, Position
from data.config import DataConfig
from data.dataloader import BatchPreparer, train_batches
from data.errors import InputError
from data.labels import LabelEncoder
from data.manifest import build_manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.sampling.padded_length import padded_frames
from data.utterance import Utterance
from eval.whisper import load_whisper

WriteClip = Callable[..., Path]


def tone(seconds: float = 1.0, hertz: float = 440.0) -> Tensor:
    """Return a tone at 16 kHz."""
    time = torch.arange(round(seconds * 16_000)) / 16_000
    return 0.3 * torch.sin(2 * math.pi * hertz * time)


def loudest(samples: Tensor) -> float:
    """Return the frequency with the highest magnitude, in Hz."""
    return float(torch.fft.rfft(samples).abs().argmax()) * 16_000 / len(samples)


def level(samples: Tensor) -> float:
    """Return the RMS in decibels."""
    return 20 * math.log10(float(samples.square().mean().sqrt()))


@pytest.mark.parametrize("speed", [0.5, 0.9, 1.1, 2.0])
def test_speed_changes_length_and_pitch_alike(speed: float) -> None:
    played = change_speed(tone(2.0), speed)
    assert len(played) == pytest.approx(32_000 / speed, abs=2)
    assert loudest(played) == pytest.approx(440 * speed, abs=2)


def test_volume_is_in_decibels_and_is_clipped_as_a_microphone_does() -> None:
    assert level(change_volume(tone(), -6.0)) == pytest.approx(level(tone()) - 6.0, abs=0.01)
    assert float(change_volume(tone(), 40.0).abs().max()) == 1.0


@pytest.mark.parametrize("snr", [0.0, 10.0, 25.0])
def test_speech_is_so_many_decibels_above_noise(snr: float) -> None:
    noise = torch.randn(16_000)
    added = add_noise(tone(), noise, snr) - tone()
    assert level(tone()) - level(added) == pytest.approx(snr, abs=0.01)


def test_silence_has_no_level_that_noise_could_be_below() -> None:
    nothing = torch.zeros(100)
    assert add_noise(nothing, torch.randn(100), 5.0) is nothing
    assert torch.equal(add_noise(tone(), torch.zeros(16_000), 5.0), tone())


def test_masked_features_have_the_mean_of_their_row() -> None:
    features = torch.randn(2, 80, 100)
    before, mean = features.clone(), features.mean(dim=(-2, -1))
    mask_features(
        features, [Mask(1, slice(10, 20), slice(0, 90)), Mask(1, slice(None), slice(5, 9))]
    )
    assert torch.equal(features[0], before[0])
    assert torch.all(features[1, 10:20, :90] == mean[1])
    assert torch.all(features[1, :, 5:9] == mean[1])
    assert torch.equal(features[1, 20:, 9:], before[1, 20:, 9:])


def test_masks_stay_within_a_clip_and_their_widths() -> None:
    config = AugmentConfig(time_masks=2, time_width=50, mel_masks=1, mel_width=20)
    drawn = Augmentation(config, seed=0, n_mels=128)
    for index in range(300):
        frames = 1 + index * 3
        first, second, band = drawn.masks(3, frames, epoch=1, index=index)
        assert all(mask.row == 3 for mask in (first, second, band))
        for mask in (first, second):
            assert 0 <= mask.frames.start <= mask.frames.stop <= frames
            assert mask.frames.stop - mask.frames.start <= min(50, frames // 10)
        assert 0 <= band.channels.start <= band.channels.stop <= 128
        assert band.channels.stop - band.channels.start <= 20
        assert band.frames == slice(0, frames)


def test_by_default_clips_are_unchanged() -> None:
    samples = tone()
    assert NO_AUGMENTATION(samples, 1.0, epoch=0, index=0) is samples
    assert NO_AUGMENTATION.masks(0, 100, epoch=0, index=0) == []


def test_augmentation_depends_on_seed_epoch_and_utterance_only(
    write_clip: WriteClip, tmp_path: Path
) -> None:
    write_clip(tmp_path / "hum.wav", 0.4, frequency=50)
    config = AugmentConfig(volume=6.0, noise=str(tmp_path), noise_share=0.5)

    def heard(seed: int, epoch: int, index: int) -> str:
        return str(Augmentation(config, seed)(tone(), 1.0, epoch, index).sum().item())

    keys = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in range(4)]
    assert [heard(*key) for key in keys] == [heard(*key) for key in keys]
    assert len({heard(*key) for key in keys}) == len(keys)


def test_short_noise_is_repeated(write_clip: WriteClip, tmp_path: Path) -> None:
    write_clip(tmp_path / "short.wav", 0.25, rate=8_000)
    (path,) = find_noise_files(tmp_path)
    noise = sample_noise(path, 16_000, random.Random(0))
    assert len(noise) == 16_000
    assert torch.equal(noise[:4000], noise[4000:8000])


def test_a_folder_without_noise_and_broken_noise_raise_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.augment.noise: .* has no \.flac"):
        find_noise_files(tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    with pytest.raises(InputError, match=r"data.augment.noise: .*broken\.wav: "):
        find_noise_files(tmp_path)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"speed": (0.4,)}, r"speed must lie within"),
        ({"noise_share": 1.5}, r"noise_share must lie between 0 and 1"),
        ({"noise_snr": (9.0, 3.0)}, r"noise_snr must be the least and the most"),
        ({"volume": -1.0}, r"volume must be 0 or more"),
        ({"mel_width": 90}, r"mel_width must be 80 at most"),
    ],
)
def test_wrong_knobs_raise_an_input_error(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AugmentConfig(**knobs)


# through the pipeline

KNOBS = AugmentConfig(speed=(0.8, 1.0, 1.25), volume=6.0, time_masks=1, mel_masks=1)


@pytest.fixture(scope="module")
def label_encoder(blank_model: Path) -> LabelEncoder:
    """Return the LabelEncoder of a small model."""
    return load_whisper(str(blank_model)).labels()


def epoch_of(
    rows: list[Utterance],
    label_encoder: LabelEncoder,
    config: DataConfig,
    number: int,
    world_size: int = 1,
) -> list[Batch]:
    """Return an epoch's batches on all processes."""
    plan = Plan.from_utterances(rows, config, seed=5)
    augmentation = Augmentation(config.augment, seed=5)
    found = []
    for rank in range(world_size):
        sampler = BucketedBatchSampler(plan, config, updates=0, rank=rank, world_size=world_size)
        passes = train_batches(
            rows, config, BatchPreparer(label_encoder, 80, augmentation=augmentation), sampler
        )
        found += list(passes.start(Position(number, 0), len(plan.updates(number))))
    return found


def rows_heard(batches: list[Batch]) -> dict[str, str]:
    """Return a sum of each utterance's features, by id."""
    return {
        each: f"{features[:, :50].sum().item():.6f}"
        for batch in batches
        for each, features in zip(batch.ids, batch.features, strict=False)
    }


@pytest.mark.parametrize("pad", ["bucket", "packed"])
def test_an_epoch_is_the_same_on_any_number_of_processes_and_workers(
    pad: Any, tone_corpus: Path, label_encoder: LabelEncoder, tmp_path: Path
) -> None:
    config = DataConfig(
        corpus=(str(tone_corpus),), pad=pad, update_clips=8, augment=KNOBS, workers=0
    )
    rows = list(build_manifest(config, label_encoder, tmp_path / "cache", show=False)[0].train)
    if pad == "packed":  # rows are windows
        one = [batch.features for batch in epoch_of(rows, label_encoder, config, 1)]
        again = [b.features for b in epoch_of(rows, label_encoder, replace(config, workers=2), 1)]
        assert all(map(torch.equal, one, again))
        return
    one = rows_heard(epoch_of(rows, label_encoder, config, 1))
    assert one == rows_heard(epoch_of(rows, label_encoder, replace(config, workers=2), 1))
    assert one == rows_heard(epoch_of(rows, label_encoder, config, 1, world_size=2))
    other = rows_heard(epoch_of(rows, label_encoder, config, 2))
    assert other.keys() == one.keys()
    assert sum(other[key] != one[key] for key in one) > len(one) / 2


def test_the_plan_knows_the_augmented_duration(
    tone_corpus: Path, label_encoder: LabelEncoder, tmp_path: Path
) -> None:
    config = DataConfig(
        corpus=(str(tone_corpus),), pad="bucket", update_clips=1, augment=KNOBS, workers=0
    )
    rows = list(build_manifest(config, label_encoder, tmp_path / "cache", show=False)[0].train)
    plan = Plan.from_utterances(rows, config, seed=5)
    index = {u.id: i for i, u in enumerate(rows)}
    speeds = set()
    for batch in epoch_of(rows, label_encoder, config, 0):
        (clip,) = batch.ids
        heard = plan.duration(index[clip], 0)
        speeds.add(plan.speed(index[clip], 0))
        assert batch.features.shape[-1] == padded_frames(heard)
        assert batch.seconds[0] == pytest.approx(heard, abs=0.12)
    assert speeds == {0.8, 1.0, 1.25}


def test_no_clip_is_slowed_down_beyond_a_window() -> None:
    rows = [Utterance(id=str(n), audio="", text="", seconds=29.0, tokens=9) for n in range(40)]
    plan = Plan.from_utterances(rows, DataConfig(augment=AugmentConfig(speed=(0.5, 2.0))), seed=0)
    assert {plan.speed(n, 0) for n in range(40)} == {1.0, 2.0}
