"""A Batch to texts, with the stock model's own generate."""

from copy import deepcopy
from typing import Any

import torch

from data.features import N_FRAMES
from data.utterance import Batch
from eval.config import EvalConfig
from eval.whisper import Whisper


@torch.inference_mode()
def transcribe(whisper: Whisper, batch: Batch, config: EvalConfig, task: str) -> list[str]:
    """Return one text a clip. Batches of up to 30 s are decoded in one window.

    Longer ones are transcribed whole, window by window, with timestamps (transformers' sequential
    algorithm, after section 3.8 of Whisper's paper): pass one clip at a time.
    """
    model = whisper.model
    features = batch.features.to(model.device)
    options: dict[str, Any] = {"generation_config": _generation(whisper, config), "use_cache": True}
    if whisper.multilingual:  # an English-only model refuses to be told
        options |= {"language": batch.languages, "task": task}
    if features.shape[-1] > N_FRAMES:
        mask = torch.ones(
            features.shape[0], features.shape[-1], dtype=torch.long, device=model.device
        )
        options |= {"return_timestamps": True, "attention_mask": mask}
    tokens = model.generate(features, **options)
    texts = whisper.processor.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _generation(whisper: Whisper, config: EvalConfig) -> Any:
    generation = deepcopy(whisper.model.generation_config)
    generation.max_length = config.max_length
    generation.max_new_tokens = None
    generation.num_beams = config.num_beams
    generation.do_sample = False
    return generation
