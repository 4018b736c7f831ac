"""Export a model to a folder for from_pretrained(), which is complete or absent."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file, save_file
from whisper_normalizer.english import EnglishSpellingNormalizer

from data.atomic_files import sync_tree, write_json, write_text
from data.errors import InputError
from data.lazy_manifest import ManifestColumns
from data.utterance import Utterance
from eval.half_precision import remove_adapters
from eval.main_process import wait_until_visible
from eval.whisper import Whisper
from trainer.checkpoint.atomic_folder import digest, discard, move
from trainer.checkpoint.snapshot import WEIGHTS, load_weights
from trainer.lora import merge_adapters
from trainer.publish.model_card import card

Precision = Literal["fp32", "fp16"]

FACTS = "whisper_loop.json"  # holds the update of the weights; an export without it is incomplete


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """Uploads to the Hugging Face Hub, and the model card."""

    # Repository on the Hugging Face Hub to upload the model to: NAME or USER/NAME. None uploads
    # nothing.
    repo: str | None = None
    # Make the repository private. One that exists and is public is then refused.
    private: bool = True
    # Upload the newest checkpoint too, as last-checkpoint/, to resume on another machine.
    checkpoints: bool = False
    # Number format of the uploaded or exported weights. The run's own stay as they are.
    precision: Precision = "fp32"
    # The model's licence as the Hub spells it, such as cc-by-4.0. None is "not stated".
    licence: str | None = None
    # Seconds to wait for uploads at the end. `python -m trainer publish` uploads the rest.
    wait_seconds: float = 600.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: the repository name is not valid, or a number is out of its range.
        """
        if not self.wait_seconds >= 0:
            raise InputError(f"publish.wait_seconds must be 0 or more, got {self.wait_seconds}")
        if self.repo is None:
            return
        try:
            validate_repo_id(self.repo)
        except HFValidationError as error:
            raise InputError(
                f"publish.repo={self.repo!r} is not a valid repository name: use NAME or "
                "USER/NAME, of letters, digits, '-', '_' and '.'"
            ) from error


def set_generation_config(whisper: Whisper, utterances: Sequence[Utterance]) -> None:
    """Set the default language and task of generate(), as the guide does.

    With several languages generate() detects the language; with several tasks it transcribes.
    forced_decoder_ids is removed: newer versions of transformers raise an error if it is set.

    Args:
        whisper: the model to change.
        utterances: that it is trained on.
    """
    generation = whisper.model.generation_config
    for config in (generation, whisper.model.config):
        vars(config).pop("forced_decoder_ids", None)
    if whisper.multilingual:
        kinds = ManifestColumns.from_utterances(utterances).kinds
        languages, tasks = ({kind[place] for kind in kinds} for place in (1, 2))
        generation.task = tasks.pop() if len(tasks) == 1 else "transcribe"
        generation.language = languages.pop() if len(languages) == 1 else None


def export(
    whisper: Whisper, folder: Path, facts: dict[str, Any], precision: Precision = "fp32"
) -> None:
    """Export model, processor and model card, replacing the folder in one step.

    Args:
        whisper: does not change, whatever the precision.
        folder: in a run's folder, from whose files the card is made.
        facts: what facts_of() returned.
        precision: of the exported weights.

    Raises:
        InputError: a weight is too large for fp16.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        merge_adapters(whisper.model).save_pretrained(fresh)
        whisper.processor.save_pretrained(fresh)
        write_companions(fresh, whisper.processor)
        if precision == "fp16":
            convert_to_fp16(fresh)
        describe(fresh, facts)
        sync_tree(fresh)
        discard(folder, last=FACTS)  # if killed here, the next start exports from the checkpoint
        move(fresh, folder, last=FACTS)
    finally:  # free the space again if the disk is full
        shutil.rmtree(fresh, ignore_errors=True)


def describe(folder: Path, facts: dict[str, Any]) -> None:
    """Write the model card and the facts of an exported model."""
    write_text(folder / "README.md", card(folder.parent, facts))
    write_facts(folder, facts)


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write the facts of an exported model, with size and sha256 of its weights."""
    write_json(folder / FACTS, facts | {"weights": digest(folder / WEIGHTS)})


def restore(whisper: Whisper, folder: Path) -> None:
    """Load exported weights into a model in memory."""
    remove_adapters(whisper.model)
    load_weights(whisper.model, wait_until_visible(folder / WEIGHTS))


def exported_step(folder: Path) -> int | None:
    """Return the update of an exported model; None if it is missing or incomplete."""
    try:
        return int(json.loads((folder / FACTS).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def whole_step(folder: Path) -> int | None:
    """Return the update of an exported model whose weights match their sha256, else None.

    This reads the whole file of weights.
    """
    step = exported_step(folder)
    if step is None or not (folder / WEIGHTS).is_file():
        return None
    expected = json.loads((folder / FACTS).read_text(encoding="utf-8")).get("weights")
    # earlier versions wrote no digest
    return step if expected is None or digest(folder / WEIGHTS) == expected else None


def write_companions(folder: Path, processor: Any) -> None:
    """Write files that older programs read: preprocessor config, vocabulary, merges, normalizer."""
    processor.feature_extractor.save_pretrained(folder)  # preprocessor_config.json
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    write_json(folder / "vocab.json", vocabulary)
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *pairs]) + "\n")
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    write_json(
        folder / "added_tokens.json", {k: v for k, v in added.items() if k not in vocabulary}
    )
    # tokenizer.normalize() crashes without this file, which is not in transformers' wheel
    write_json(folder / "normalizer.json", EnglishSpellingNormalizer().mapping)


def convert_to_fp16(folder: Path) -> None:
    """Convert the weights of an exported model to float16, which halves their size.

    Raises:
        InputError: a weight is too large for float16.
    """
    path = folder / "model.safetensors"
    weights = {
        name: w.half() if w.is_floating_point() else w for name, w in load_file(path).items()
    }
    overflowing = [name for name, w in weights.items() if not torch.isfinite(w).all()]
    if overflowing:
        raise InputError(
            f"publish.precision=fp16: {overflowing[0]} has weights beyond 65,504, the largest "
            "value of fp16: set publish.precision=fp32"
        )
    save_file(weights, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"dtype": "float16"})
