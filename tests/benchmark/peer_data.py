"""The guide's features, labels and collator, brought up to transformers 5 and datasets 5.

Features are computed by datasets' map into its cache, as the guide does; a second start finds them
there. What its users have learnt to mend is mended: the collator cuts the start token, which the
guide's leaves in twice; audio is decoded by soundfile, since datasets' own decoder wants FFmpeg's
libraries; features have a fixed shape, which the cache returns faster than nested lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import soundfile
import torch
from datasets import Array2D, DatasetDict, Features, List, Value, load_dataset
from torchaudio.transforms import Resample
from transformers import GenerationConfig, WhisperProcessor

RATE, FRAMES, IGNORE_INDEX = 16_000, 3000, -100


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What to do, and with what."""

    do: Literal["prepare", "train", "evaluate"]  # evaluate: before and after training
    model: str
    corpus: str  # the folder of train.jsonl and test.jsonl
    language: str
    cache: str  # the folder of features
    output: str  # the folder that the Trainer writes to
    out: str  # the JSON file to write
    clips: int  # an update
    updates: int
    warmup: int  # updates before timing begins
    eval_clips: int  # decoded together
    workers: int
    precision: str
    gradient_checkpointing: bool
    seed: int


def load_processor(model: str, language: str) -> Any:
    """Return feature extractor and tokenizer; an English-only model is not told a language."""
    if GenerationConfig.from_pretrained(model).is_multilingual:
        return WhisperProcessor.from_pretrained(model, language=language, task="transcribe")
    return WhisperProcessor.from_pretrained(model)


def prepare(facts: Facts, processor: Any) -> Any:
    """Return features and labels of both splits, from the cache where they are in it."""
    corpus, cache = Path(facts.corpus), Path(facts.cache)

    def features_and_labels(row: dict[str, Any]) -> dict[str, Any]:
        samples, rate = soundfile.read(corpus / row["path"], dtype="float32", always_2d=True)
        mono = torch.from_numpy(samples).mean(dim=1)
        audio = mono if rate == RATE else resampler(rate)(mono)
        extracted = processor.feature_extractor(audio.numpy(), sampling_rate=RATE)
        labels = processor.tokenizer(row["text"]).input_ids
        return {"input_features": extracted.input_features[0], "labels": labels}

    files = {split: str(corpus / f"{split}.jsonl") for split in ("train", "test")}
    dataset: DatasetDict = load_dataset("json", data_files=files, cache_dir=str(cache))
    bins = processor.feature_extractor.feature_size
    return dataset.map(
        features_and_labels,
        remove_columns=dataset["train"].column_names,
        features=Features(
            input_features=Array2D((bins, FRAMES), "float32"), labels=List(Value("int64"))
        ),
        num_proc=facts.workers or None,
        cache_file_names={split: str(cache / f"{split}.arrow") for split in files},
    ).with_format("torch")


@lru_cache
def resampler(rate: int) -> Any:
    """Return the kernel for a source rate, built once."""
    return Resample(rate, RATE)


@dataclass
class Collator:
    """Stacks features and pads labels, without the start token that the model puts back."""

    processor: Any
    start: int

    def __call__(self, clips: Sequence[dict[str, Any]]) -> Any:
        """Make a batch."""
        features = [{"input_features": clip["input_features"]} for clip in clips]
        batch = self.processor.feature_extractor.pad(features, return_tensors="pt")
        padded = self.processor.tokenizer.pad(
            [{"input_ids": clip["labels"]} for clip in clips], return_tensors="pt"
        )
        labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), IGNORE_INDEX)
        if (labels[:, 0] == self.start).all():
            labels = labels[:, 1:]
        batch["labels"] = labels
        return batch
