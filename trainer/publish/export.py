"""The model leaves the run: a folder that from_pretrained takes, whole or absent."""

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
from trainer.checkpoint.snapshot import WEIGHTS, fill
from trainer.lora import merged
from trainer.publish.model_card import card

Precision = Literal["fp32", "fp16"]

FACTS = "whisper_loop.json"  # which update the weights are from; without it a model is not whole


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
        """Refuse values that could not work.

        Raises:
            InputError: no repository can have this name, or a number is out of its range.
        """
        if not self.wait_seconds >= 0:
            raise InputError(f"publish.wait_seconds must be 0 or more, got {self.wait_seconds}")
        if self.repo is None:
            return
        try:
            validate_repo_id(self.repo)
        except HFValidationError as error:
            raise InputError(
                f"publish.repo={self.repo!r} is no name that the Hub takes: give NAME or "
                "USER/NAME, of letters, digits, '-', '_' and '.'"
            ) from error


def set_generation_config(whisper: Whisper, utterances: Sequence[Utterance]) -> None:
    """Set what generate() does when nobody tells it, as the guide does: language and task.

    Several languages leave the choice to the model, several tasks to stock's default.
    forced_decoder_ids, the old way to say it, would make newer versions of transformers refuse.
    """
    generation = whisper.model.generation_config
    for told in (generation, whisper.model.config):
        vars(told).pop("forced_decoder_ids", None)
    if whisper.multilingual:
        kinds = ManifestColumns.from_utterances(utterances).kinds
        languages, tasks = ({kind[place] for kind in kinds} for place in (1, 2))
        generation.task = tasks.pop() if len(tasks) == 1 else "transcribe"
        generation.language = languages.pop() if len(languages) == 1 else None


def export(
    whisper: Whisper, folder: Path, facts: dict[str, Any], precision: Precision = "fp32"
) -> None:
    """Write model, processor and card into a new folder, and put it in the old one's place.

    Args:
        whisper: stays as it is, whatever the precision.
        folder: in a run's folder, whose files the card is made of.
        facts: what those files do not say.
        precision: of the weights in the folder.

    Raises:
        InputError: a weight is too large for fp16.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        merged(whisper.model).save_pretrained(fresh)
        whisper.processor.save_pretrained(fresh)
        write_companions(fresh, whisper.processor)
        if precision == "fp16":
            halve(fresh)
        describe(fresh, facts)
        sync_tree(fresh)
        discard(folder, last=FACTS)  # killed here, the next start exports from the checkpoint
        move(fresh, folder, last=FACTS)
    finally:  # a full disk is left no fuller than it was
        shutil.rmtree(fresh, ignore_errors=True)


def describe(folder: Path, facts: dict[str, Any]) -> None:
    """Write the card of an exported model, and what it was made of."""
    write_text(folder / "README.md", card(folder.parent, facts))
    write_facts(folder, facts)


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write what an exported model was made of, with the size and the sha256 of its weights."""
    write_json(folder / FACTS, facts | {"weights": digest(folder / WEIGHTS)})


def restore(whisper: Whisper, folder: Path) -> None:
    """Load exported weights into the model in hand."""
    remove_adapters(whisper.model)
    fill(whisper.model, wait_until_visible(folder / WEIGHTS))


def exported_step(folder: Path) -> int | None:
    """Return the update that an exported model is from; None where there is none, or damaged."""
    try:
        return int(json.loads((folder / FACTS).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def whole_step(folder: Path) -> int | None:
    """Return the same, of a model whose weights are what was written; this reads all of them."""
    step = exported_step(folder)
    if step is None or not (folder / WEIGHTS).is_file():
        return None
    written = json.loads((folder / FACTS).read_text(encoding="utf-8")).get("weights")
    # earlier versions did not note it
    return step if written is None or digest(folder / WEIGHTS) == written else None


def write_companions(folder: Path, processor: Any) -> None:
    """Write the files of older readers into an exported model's folder."""
    processor.feature_extractor.save_pretrained(folder)  # preprocessor_config.json
    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, merges = told["model"]["vocab"], told["model"]["merges"]
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    write_json(folder / "vocab.json", vocabulary)
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *pairs]) + "\n")
    added = {each["content"]: each["id"] for each in told["added_tokens"]}
    write_json(
        folder / "added_tokens.json", {k: v for k, v in added.items() if k not in vocabulary}
    )
    # without it tokenizer.normalize() crashes; transformers' wheel does not hold it
    write_json(folder / "normalizer.json", EnglishSpellingNormalizer().mapping)


def halve(folder: Path) -> None:
    """Turn the weights of an exported model into float16: half the size, and what GPUs decode in.

    Raises:
        InputError: a weight is too large for it.
    """
    path = folder / "model.safetensors"
    weights = {
        name: w.half() if w.is_floating_point() else w for name, w in load_file(path).items()
    }
    wrong = [name for name, w in weights.items() if not torch.isfinite(w).all()]
    if wrong:
        raise InputError(
            f"publish.precision=fp16: {wrong[0]} has weights beyond 65,504, which fp16 cannot "
            "hold: set publish.precision=fp32"
        )
    save_file(weights, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"dtype": "float16"})
