"""Options of transformers' generate(), and whether GreedyDecoder can take its place."""

from copy import deepcopy
from typing import Any

from data.batch import Batch
from eval.config import EvalConfig
from eval.whisper import Whisper

# of a model's GenerationConfig: they change the tokens of greedy decoding in ways that
# GreedyDecoder does not know. Published Whisper models set none
GENERATE_ONLY = {
    "bad_words_ids": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1.0,
    "max_time": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "penalty_alpha": 0.0,
    "repetition_penalty": 1.0,
    "sequence_bias": None,
    "stop_strings": None,
    "watermarking_config": None,
}  # name: the value without an effect; None has none either


def decodes_greedily(whisper: Whisper, config: EvalConfig) -> bool:
    """Return whether GreedyDecoder returns the same tokens as generate()."""
    if config.num_beams > 1 or config.timestamps:
        return False
    model, generation = whisper.model, whisper.model.generation_config
    if not whisper.multilingual:
        no_timestamps = getattr(generation, "no_timestamps_token_id", None)
        usual: tuple[Any, ...] = (None, [], [[1, no_timestamps]])
        forced = [getattr(c, "forced_decoder_ids", None) for c in (generation, model.config)]
        # generate() detects a language where the config lists any
        if hasattr(generation, "lang_to_id") or any(ids not in usual for ids in forced):
            return False
    return all(
        getattr(generation, name, None) in (None, neutral)
        for name, neutral in GENERATE_ONLY.items()
    )


def generate_options(whisper: Whisper, batch: Batch, indices: list[int]) -> dict[str, Any]:
    """Return generate()'s language and task for some clips; an English-only model accepts none."""
    options: dict[str, Any] = {"use_cache": True}
    if whisper.multilingual:
        (task,) = set(batch.tasks)  # generate() takes one task, and one language a clip
        options |= {"language": [batch.languages[i] for i in indices], "task": task}
    return options


def generation_config(whisper: Whisper, config: EvalConfig, max_tokens: int) -> Any:
    """Return the model's generation config with our decoding knobs and a token limit."""
    generation = deepcopy(whisper.model.generation_config)
    generation.max_length = max_tokens
    generation.max_new_tokens = None
    generation.num_beams = config.num_beams
    generation.do_sample = False
    generation.top_k, generation.top_p = 0, 1.0  # sample from all tokens, as openai/whisper does
    return generation
