"""Every layout, from a small realistic folder to an update of the model."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator

from data.batch import Position
from data.config import DataConfig
from data.dataloader import BatchPreparer, train_batches
from data.errors import InputError
from data.manifest import build_manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.screening.filters import count_reasons
from eval.whisper import Whisper, load_whisper
from trainer.distributed.engine import Engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig, build_optimizer
from trainer.step import train_step

WriteClip = Callable[..., Path]
Clips = dict[Path, str]  # what is said in each; 1.0.wav lasts a second
TEXTS = ("one", "two three", "four", "five six seven", "eight", "nine zero")
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def shards(folder: Path, clips: Clips, suffix: str = "tar") -> None:
    """Write two shards, the first with .txt and the second with .json."""
    for number, kind in enumerate(("txt", "json")):
        held = list(clips.items())[number::2]
        for clip, text in held:
            said = text if kind == "txt" else json.dumps({"text": text})
            clip.with_suffix(f".{kind}").write_text(said)
        path = folder / f"train-{number:06d}.{suffix}"
        with tarfile.open(path, "w:gz" if suffix == "tgz" else "w") as tar:
            files = [file for clip, _ in held for file in (clip, clip.with_suffix(f".{kind}"))]
            for file in filter(Path.exists, files):
                tar.add(file, file.name)


def shards_gzip(folder: Path, clips: Clips) -> None:
    """Write the same corpus, compressed."""
    shards(folder, clips, "tgz")


def fleurs(folder: Path, clips: Clips) -> None:
    """Write a table, and audio/train."""
    rows = [
        f"1\t{clip.name}\t{text}\t{text}\t|\t{float(clip.stem) * 16_000:.0f}\tMALE\n"
        for clip, text in clips.items()
    ]
    (folder / "train.tsv").write_text("".join(rows))
    (folder / "audio" / "train").mkdir(parents=True)
    for clip in filter(Path.exists, clips):
        clip.rename(folder / "audio" / "train" / clip.name)


def fleurs_packed(folder: Path, clips: Clips) -> None:
    """Write a table, and audio/train.tar.gz."""
    fleurs(folder, clips)
    with tarfile.open(folder / "audio" / "train.tar.gz", "w:gz") as tar:
        tar.add(folder / "audio" / "train", "train")
    (folder / "audio" / "train").rename(folder.parent / "elsewhere")


def subtitles(folder: Path, clips: Clips) -> None:
    """Write recordings that begin with speech, with SRT and WebVTT subtitles."""
    for number, (clip, text) in enumerate(clips.items()):
        if clip.exists():
            clip.rename(folder / clip.name)
        end = float(clip.stem) - 0.1
        if number % 2:
            cue = f"1\n00:00:00,000 --> 00:00:{end:06.3f}\n<i>{text}</i>\n".replace(".", ",")
            (folder / f"{clip.stem}.en.srt").write_text(cue)
        else:
            cue = f"WEBVTT\n\n00:00.000 --> 00:{end:06.3f}\n{text}\n"
            (folder / f"{clip.stem}.vtt").write_text(cue)


def table(clips: Clips) -> pa.Table:
    """Return a table with audio in the format of `datasets`."""
    audio = [
        {"bytes": clip.read_bytes() if clip.exists() else None, "path": str(clip)} for clip in clips
    ]
    return pa.table({"audio": pa.array(audio, AUDIO), "text": list(clips.values())})


def parquet(folder: Path, clips: Clips) -> None:
    """Write two parquet files."""
    whole = table(clips)
    pq.write_table(whole.slice(0, 3), folder / "train-00000-of-00002.parquet")
    pq.write_table(whole.slice(3), folder / "train-00001-of-00002.parquet")


def arrow(folder: Path, clips: Clips) -> None:
    """Write an arrow file."""
    whole = table(clips)
    with pa.ipc.new_stream(folder / "train-00000-of-00001.arrow", whole.schema) as file:
        file.write_table(whole)


def saved(folder: Path, clips: Clips) -> None:
    """Write what save_to_disk() does."""
    rows = datasets.Dataset(table(clips)).cast_column("audio", datasets.Audio(decode=False))
    datasets.DatasetDict(train=rows).save_to_disk(folder, num_shards={"train": 2})


LAYOUTS = (shards, shards_gzip, fleurs, fleurs_packed, subtitles, parquet, arrow)
Build = Callable[[Path, Clips], None]


@pytest.fixture(autouse=True)
def caches(cache_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep caches out of the home folder, and progress off the screen."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    datasets.disable_progress_bars()


@pytest.fixture
def clips(tmp_path: Path, write_clip: WriteClip) -> Clips:
    """Return clips of 1 to 3.5 s."""
    lengths = [1 + number / 2 for number in range(len(TEXTS))]
    paths = [write_clip(tmp_path / f"{length}.wav", length) for length in lengths]
    return dict(zip(paths, TEXTS, strict=True))


@pytest.fixture(scope="module")
def whisper(blank_model: Path) -> Whisper:
    """Return a small model."""
    return load_whisper(str(blank_model))


def config_of(build: Build, tmp_path: Path, clips: Clips) -> DataConfig:
    """Write a corpus, and return its DataConfig."""
    folder = tmp_path / "corpus" / "en_us"
    folder.mkdir(parents=True)
    build(folder, clips)
    return DataConfig(
        corpus=(str(folder),),
        language=("en",),
        dev_split=None,
        test_split=None,
        update_clips=len(clips),
        pad="bucket",
        workers=2,
    )


@pytest.mark.parametrize("build", [*LAYOUTS, saved])  # datasets saves no row without its audio
def test_a_corpus_is_trained_on_and_nothing_is_written_into_it(
    build: Build, tmp_path: Path, clips: Clips, whisper: Whisper
) -> None:
    config = config_of(build, tmp_path, clips)
    folder = Path(config.corpus[0])
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    encoder, cache = whisper.labels(), tmp_path / "scan.jsonl"
    manifest, drops = build_manifest(config, encoder, cache, show=False)
    assert drops == []
    assert sorted(u.text for u in manifest.train) == sorted(TEXTS)

    plan = Plan.from_utterances(manifest.train, config, seed=0)
    passes = train_batches(
        manifest.train,
        config,
        BatchPreparer(encoder, 80),
        BucketedBatchSampler(plan, config, updates=1),
    )
    batches = list(passes.start(Position(), 1))
    assert sorted(name for b in batches for name in b.ids) == sorted(u.id for u in manifest.train)
    assert not any(batch.drops for batch in batches)

    module = prepare_training(whisper, ModelConfig())
    weight = module.whisper.model.decoder.embed_tokens.weight
    old = weight.detach().clone()
    optimizer = build_optimizer(module, OptimConfig(lr=1e-3))
    tokens = sum(sum(batch.tokens) for batch in batches)
    result = train_step(
        Engine(Accelerator(cpu=True), module, optimizer), batches, tokens=tokens, max_norm=1.0
    )
    assert result.finite
    assert not torch.equal(weight, old)
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


@pytest.mark.parametrize("build", LAYOUTS)
def test_a_row_whose_audio_is_not_there_stops_the_run_or_is_a_counted_drop(
    build: Build, tmp_path: Path, clips: Clips, whisper: Whisper
) -> None:
    list(clips)[2].unlink()
    config = config_of(build, tmp_path, clips)
    encoder, cache = whisper.labels(), tmp_path / "scan.jsonl"
    with pytest.raises(InputError, match=r"no such file, though train lists it \(1 such rows"):
        build_manifest(config, encoder, cache, show=False)
    going_on = replace(config, missing_audio="drop")
    manifest, drops = build_manifest(going_on, encoder, cache, show=False)
    assert count_reasons(drops) == {"train": {"missing": 1}}
    assert len(manifest.train) == len(TEXTS) - 1
