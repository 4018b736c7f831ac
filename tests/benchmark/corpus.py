"""One corpus for both sides: screened clips of up to 30 s, copied into a folder of their own."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from measure import Knobs, Task
from synthetic import make_corpus, make_model
from transformers import AutoConfig, GenerationConfig, WhisperProcessor

from data.atomic_files import write_jsonl
from data.config import DataConfig
from data.errors import InputError
from data.labels import LabelEncoder
from data.log_mel import CHUNK_SECONDS
from data.manifest import Manifest, build_manifest
from data.utterance import Utterance
from trainer.metrics.flops import WhisperFlops

UPDATES = 64  # an epoch of the synthetic corpus holds: 32 buckets take so many
TEST_CLIPS = 32  # of the synthetic corpus


def set_up(knobs: Knobs, folder: Path) -> Task:
    """Lay out the corpus, and make both where they are synthetic."""
    source, model = str(knobs.corpus), str(knobs.model)
    if knobs.synthetic is not None:
        source, model = str(folder / "synthetic"), str(folder / "model")
        clips = {
            "train": knobs.train_clips or UPDATES * knobs.clips,
            "test": knobs.test_clips or TEST_CLIPS,
        }
        make_corpus(Path(source), clips, suffix=knobs.audio)
        make_model(knobs.synthetic, Path(source), Path(model))
    found = screened(source, model, knobs, folder / "scan.jsonl")
    held = [u for u in found.test if u.text and u.seconds < CHUNK_SECONDS]
    corpus = folder / "corpus"
    return Task(
        knobs=knobs,
        model=model,
        corpus=corpus,
        train=copy(draw(found.train, knobs.train_clips), corpus, "train"),
        test=copy(draw(held, knobs.test_clips), corpus, "test"),
        folder=folder,
        flops=WhisperFlops.from_config(AutoConfig.from_pretrained(model)),
    )


def screened(corpus: str, model: str, knobs: Knobs, cache: Path) -> Manifest:
    """Read a corpus, and drop what whisper-loop would drop: the other side would train on it."""
    generation = GenerationConfig.from_pretrained(model)
    encoder = LabelEncoder(
        WhisperProcessor.from_pretrained(model).tokenizer,
        max_tokens=AutoConfig.from_pretrained(model).max_target_positions,
        multilingual=getattr(generation, "is_multilingual", True),
    )
    config = DataConfig(
        corpus=(corpus,),
        language=(knobs.language,) if knobs.language else (),
        dev_split=None,
        workers=knobs.workers,
    )
    return build_manifest(config, encoder, cache, show=True)[0]


def draw(utterances: Sequence[Utterance], most: int | None) -> Sequence[Utterance]:
    """Return so many utterances at most, the same ones every time."""
    if most is None or most >= len(utterances):
        return utterances
    return random.Random(0).sample(utterances, most)


def copy(utterances: Sequence[Utterance], folder: Path, split: str) -> Sequence[Utterance]:
    """Copy a split's clips, and write a table that either side can read.

    Raises:
        InputError: an utterance is not a whole file.
    """
    (folder / split).mkdir(parents=True)
    copied = []
    for number, u in enumerate(utterances):
        if u.audio.startswith("hub:") or u.start or u.end is not None:
            raise InputError(f"{u.id}: the benchmark copies whole files; this is a part of one")
        path = f"{split}/{number:06d}{Path(u.audio).suffix}"
        shutil.copyfile(u.audio, folder / path)
        copied.append(replace(u, id=path, audio=path))
    rows = ({"id": u.id, "path": u.audio, "text": u.text} for u in copied)
    write_jsonl(folder / f"{split}.jsonl", rows)
    return copied
