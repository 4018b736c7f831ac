"""Each layout is detected, read, and trained on for an update."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from data.batch import Position
from data.config import DataConfig
from data.corpora import LAYOUTS, read
from data.dataloader import BatchPreparer, train_batches
from data.errors import InputError
from data.manifest import build_manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.screening.filters import count_reasons
from eval.whisper import load_whisper
from tests.layouts import CASES, CLIPS, Case, aishell, folder, ksponspeech, librispeech
from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model
from trainer.distributed.engine import Engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig, build_optimizer
from trainer.state import Totals
from trainer.step import train_step

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.build.__name__)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Whisper whose languages and tokens are those of Korean, Mandarin and English."""
    root = tmp_path_factory.mktemp("model")
    builds = (ksponspeech, aishell)
    corpora = [str(build(root / build.__name__)) for build in builds]
    english = librispeech(root / "en") / "LibriSpeech"
    (english / "train-clean-100").rename(english / "train")
    make_tiny_model(
        TinyModelConfig(
            out=str(root / "blank"),
            corpus=(*corpora, str(root / "en")),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            heads=2,
        )
    )
    return root / "blank"


def config_of(case: Case, corpus: Path) -> DataConfig:
    """Return a DataConfig of a corpus, without its layout."""
    knobs = {"corpus": (str(corpus),), "test_split": None, "update_clips": 3, "pad": "bucket"}
    return DataConfig(**{**knobs, "workers": 0, **case.knobs})


@EVERY
def test_each_layout_is_detected_and_no_earlier_one_matches(case: Case, tmp_path: Path) -> None:
    corpus = case.build(tmp_path)
    assert next(name for name, layout in LAYOUTS.items() if layout.matches(corpus)) == case.name
    assert not LAYOUTS[case.name].matches(tmp_path / "nowhere")
    (tmp_path / "file.pdf").write_text("")
    known = [name for name, layout in LAYOUTS.items() if layout.matches(tmp_path / "file.pdf")]
    assert known == ["manifest"]  # which says what is wrong with it


@EVERY
def test_a_layout_is_trained_on(case: Case, tmp_path: Path, model: Path) -> None:
    config = config_of(case, case.build(tmp_path))
    whisper = load_whisper(str(model))
    manifest, drops = build_manifest(config, whisper.labels(), tmp_path / "scan", show=False)
    assert (drops, len(manifest.dev)) == ([], CLIPS["dev"] if config.dev_split else 0)
    assert len(manifest.train) == CLIPS["train"] + (0 if config.dev_split else CLIPS["dev"])

    plan = Plan.from_utterances(manifest.train, config, seed=0)
    sampler = BucketedBatchSampler(plan, config, updates=1, rank=0, world_size=1)
    stages = BatchPreparer(whisper.labels(), whisper.n_mels)
    passes = train_batches(manifest.train, config, stages, sampler)
    batches = list(passes.start(Position(), plan.num_updates(1)))
    assert sorted(i for b in batches for i in b.ids) == sorted(u.id for u in manifest.train)
    assert not any(b.drops for b in batches)

    accelerator, module = Accelerator(cpu=True), prepare_training(whisper, ModelConfig())
    optimizer = build_optimizer(module, OptimConfig())
    weight = whisper.model.model.encoder.conv1.weight
    before = weight.clone()
    totals = Totals.of(batches)
    step = train_step(
        Engine(accelerator, module, optimizer), batches, tokens=totals.tokens, max_norm=1.0
    )
    assert step.finite
    assert not torch.equal(weight, before)


@EVERY
def test_ids_begin_with_the_corpus_and_are_unique_over_its_splits(
    case: Case, tmp_path: Path
) -> None:
    corpus = case.build(tmp_path / "mine")
    config = config_of(case, corpus)
    splits = [split for split in (config.train_split, config.dev_split) if split]
    found = [u for split in splits for u in read(config, split)]
    assert len({u.id for u in found}) == sum(CLIPS.values())
    assert all("/" in u.id and Path(u.audio).is_file() for u in found)
    assert list(read(config, config.train_split)) == list(read(config, config.train_split))


@EVERY
def test_an_unknown_split_raises_an_input_error_with_the_known_ones(
    case: Case, tmp_path: Path
) -> None:
    config = config_of(case, case.build(tmp_path))
    with pytest.raises(InputError, match=rf"trian.*{config.train_split}"):
        list(read(config, "trian"))


@EVERY
def test_audio_that_is_gone_is_missing_and_nothing_else(
    case: Case, tmp_path: Path, model: Path
) -> None:
    config = config_of(case, case.build(tmp_path))
    gone = next(iter(read(config, config.train_split))).audio
    Path(gone).unlink()
    labels = load_whisper(str(model)).labels()
    if case.name == "folder":  # where only the audio says that there is an utterance
        _, drops = build_manifest(config, labels, tmp_path / "scan", show=False)
        assert count_reasons(drops) == {"train": {"text without audio": 1}}
        return
    with pytest.raises(InputError, match=f"{gone}: no such file, though"):
        build_manifest(config, labels, tmp_path / "scan", show=False)


def test_two_folders_of_one_name_are_two_corpora(tmp_path: Path) -> None:
    corpora = [str(folder(tmp_path / name / "mine")) for name in "ab"]
    config = DataConfig(corpus=tuple(corpora), language=("en",))
    ids = [u.id for u in read(config, "train")]
    assert len(set(ids)) == len(ids) == 2 * CLIPS["train"]


def test_faults_are_counted_by_reason_in_every_split(tmp_path: Path, model: Path) -> None:
    corpus = aishell(tmp_path)
    table = corpus / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join(lines[1:-1]) + "\n", encoding="utf-8")
    config = replace(config_of(Case("aishell", aishell, {}), corpus), missing_audio="drop")
    labels = load_whisper(str(model)).labels()
    manifest, drops = build_manifest(config, labels, tmp_path / "scan", show=False)
    assert count_reasons(drops) == {"dev": {"no transcript": 1}, "train": {"no transcript": 1}}
    assert (len(manifest.train), len(manifest.dev)) == (CLIPS["train"] - 1, CLIPS["dev"] - 1)
