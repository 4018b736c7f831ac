"""The model leaves the run: a folder that from_pretrained takes, whole or absent."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_model

from data.files import sync, sync_tree, write_json, write_text
from data.lazy import Outline
from data.utterance import Utterance
from eval.whisper import Whisper
from trainer.lora import merged, take_off

FACTS = "whisper_loop.json"  # which update the weights are from


def settle_generation(whisper: Whisper, utterances: Sequence[Utterance]) -> None:
    """Set what generate() does when nobody tells it, as the guide does: language and task.

    Several languages leave the choice to the model, several tasks to stock's default.
    forced_decoder_ids, the old way to say it, would make newer versions of transformers refuse.
    """
    generation = whisper.model.generation_config
    generation.forced_decoder_ids = None
    whisper.model.config.forced_decoder_ids = None
    if whisper.multilingual:
        kinds = set(Outline.of(utterances).kinds)
        languages, tasks = ({kind[place] for kind in kinds} for place in (1, 2))
        generation.task = tasks.pop() if len(tasks) == 1 else "transcribe"
        generation.language = languages.pop() if len(languages) == 1 else None


def export(whisper: Whisper, folder: Path, facts: dict[str, Any]) -> None:
    """Write model, processor and card into a new folder, and put it in the old one's place."""
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        merged(whisper.model).save_pretrained(fresh)
        whisper.processor.save_pretrained(fresh)
        describe(fresh, facts)
        sync_tree(fresh)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        sync(folder.parent)
    finally:  # a full disk is left no fuller than it was, and the older model as it is
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def describe(folder: Path, facts: dict[str, Any]) -> None:
    """Write the card of an exported model, and what it was made of."""
    write_text(folder / "README.md", card(facts))
    write_json(folder / FACTS, facts)


def restore(whisper: Whisper, folder: Path) -> None:
    """Load exported weights into the model in hand."""
    take_off(whisper.model)
    load_model(whisper.model, folder / "model.safetensors")


def exported_step(folder: Path) -> int | None:
    """Return the update that an exported model is from, or None where there is none."""
    facts = folder / FACTS
    return int(json.loads(facts.read_text(encoding="utf-8"))["step"]) if facts.is_file() else None


def card(facts: dict[str, Any]) -> str:
    """Return the model card: where the weights come from, and how to use them."""
    languages = "".join(f"\n- {language}" for language in facts["languages"])
    hours = f"{facts['hours']:.2f} hours"
    heard = (
        f"{hours} of a stream" if facts["clips"] is None else f"{facts['clips']:,} clips ({hours})"
    )
    return f"""---
library_name: transformers
pipeline_tag: automatic-speech-recognition
base_model: {facts["base_model"]}
language:{languages}
tags:
- whisper
- whisper-loop
---

# {Path(facts["base_model"]).name}, fine-tuned

Fine-tuned by whisper-loop from `{facts["base_model"]}` on {heard},
{facts["step"]:,} updates. Error on the development set:
{_percent(facts["error"])}.

```python
from transformers import pipeline

transcribe = pipeline("automatic-speech-recognition", model="THIS_FOLDER")
print(transcribe("speech.wav")["text"])
```
"""


def _percent(rate: float | None) -> str:
    return "not measured" if rate is None else f"{rate:.2%}"
