"""A Batch to texts, with the stock model's own generate."""

from copy import deepcopy
from typing import Any

import torch

from data.features import N_FRAMES
from data.utterance import Batch
from eval.config import EvalConfig
from eval.whisper import Whisper

MORE_TOKENS = 16  # than a clip's seconds allow, for the prefix and the shortest clips


@torch.inference_mode()
def transcribe(whisper: Whisper, batch: Batch, config: EvalConfig) -> list[str]:
    """Return one text a clip. Batches hold one task; up to 30 s is decoded in one window.

    What is shorter than that is encoded at its length: a model has to be trained so. What is longer
    is transcribed whole, window by window, with timestamps (transformers' sequential algorithm,
    after section 3.8 of Whisper's paper): pass one clip at a time.
    """
    model = whisper.model
    features = batch.features.to(model.device)
    frames = features.shape[-1]
    options: dict[str, Any] = {"use_cache": True}
    options["generation_config"] = _generation(whisper, config, max(batch.seconds))
    if whisper.multilingual:  # an English-only model refuses to be told
        (task,) = set(batch.tasks)  # generate takes one value, and of languages one a clip
        options |= {"language": batch.languages, "task": task}
    if frames > N_FRAMES:
        mask = torch.ones(features.shape[0], frames, dtype=torch.long, device=model.device)
        options |= {"return_timestamps": True, "attention_mask": mask}
    if frames < N_FRAMES:  # generate would pad short features, with zeros
        options["encoder_outputs"] = model.model.encoder(features)
    else:
        options["input_features"] = features
    tokens = model.generate(**options)
    texts = whisper.processor.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _generation(whisper: Whisper, config: EvalConfig, seconds: float) -> Any:
    """Return how to decode audio of so many seconds; nobody says more than so much in them."""
    generation = deepcopy(whisper.model.generation_config)
    most = MORE_TOKENS + round(config.tokens_per_second * seconds)
    generation.max_length = min(config.max_length, most)
    generation.max_new_tokens = None
    generation.num_beams = config.num_beams
    generation.do_sample = False
    return generation
