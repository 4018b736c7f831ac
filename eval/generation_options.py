"""Options of transformers' generate(), and whether GreedyDecoder can take its place."""

from copy import deepcopy
from typing import Any

from data.batch import Batch
from data.labels import END, NO_TIMESTAMPS, START
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
    "remove_invalid_values": False,
    "repetition_penalty": 1.0,
    "sequence_bias": None,
    "stop_strings": None,
    "watermarking_config": None,
}  # name: the value without an effect; None has none either

# of a model's GenerationConfig: eval.max_length and eval.fallback replace them. generate() takes
# them where an argument is None, and its thresholds fail without features
REPLACED = (
    "max_new_tokens",
    "compression_ratio_threshold",
    "logprob_threshold",
    "no_speech_threshold",
)


def decodes_greedily(whisper: Whisper, config: EvalConfig) -> bool:
    """Return whether GreedyDecoder returns the same tokens as generate()."""
    if config.num_beams > 1 or config.timestamps:
        return False
    model, generation = whisper.model, whisper.model.generation_config
    if not _has_usual_tokens(whisper):
        return False
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


def _has_usual_tokens(whisper: Whisper) -> bool:
    """Return whether generate() starts and ends texts with the tokens of labels.

    Ids that the generation config lacks are not compared.
    """
    generation, ids = whisper.model.generation_config, dict[str, Any]()
    ids |= getattr(generation, "lang_to_id", None) or {}
    tasks = getattr(generation, "task_to_id", None) or {}
    ids |= {f"<|{task}|>": number for task, number in tasks.items()}
    ids[START] = generation.decoder_start_token_id
    ids[NO_TIMESTAMPS] = getattr(generation, "no_timestamps_token_id", None)
    end = generation.eos_token_id
    ids[END] = end[0] if isinstance(end, list) and len(end) == 1 else end
    usual = whisper.processor.tokenizer.convert_tokens_to_ids(list(ids))
    return all(i in (None, own) for i, own in zip(ids.values(), usual, strict=True))


def generate_options(whisper: Whisper, batch: Batch, indices: list[int]) -> dict[str, Any]:
    """Return generate()'s language and task for some clips; an English-only model accepts none."""
    options: dict[str, Any] = {"use_cache": True}
    if whisper.multilingual:
        (task,) = set(batch.tasks)  # generate() takes one task, and one language a clip
        options |= {"language": [batch.languages[i] for i in indices], "task": task}
    return options


def generation_config(whisper: Whisper, config: EvalConfig, max_tokens: int) -> Any:
    """Return the model's generation config with our decoding knobs and a token limit."""
    generation = without_replaced_options(whisper.model)
    generation.max_length = max_tokens
    generation.num_beams = config.num_beams
    generation.do_sample = False
    generation.top_k, generation.top_p = 0, 1.0  # sample from all tokens, as openai/whisper does
    return generation


def without_replaced_options(model: Any) -> Any:
    """Return a copy of a model's generation config without what our knobs replace."""
    generation = deepcopy(model.generation_config)
    for name in REPLACED:
        setattr(generation, name, None)
    return generation


def generate(model: Any, **options: Any) -> Any:
    """Call generate() while the model's generation config lacks what our knobs replace."""
    own, model.generation_config = model.generation_config, without_replaced_options(model)
    try:
        return model.generate(**options)
    finally:
        model.generation_config = own
