"""Greedy decoding returns the tokens of transformers' generate(), with less work."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data.batch import Batch
from data.config import DataConfig
from data.corpora import read
from data.dataloader import BatchPreparer, eval_batches
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.generate import Window, encode, transcribe
from eval.generation_options import decodes_greedily
from eval.greedy import START_LENGTH, GreedyDecoder
from eval.silence_states import compute_silence_states, set_silence_states
from eval.whisper import Whisper, load_whisper
from tests.conftest import make_tone_corpus
from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model

CONFIG = EvalConfig(max_length=60, tokens_per_second=20.0)
CLIPS = 6
VIEWS = (torch.ops.aten._unsafe_view.default, torch.ops.aten.detach.default)
COMMON = 134  # a token in the middle of some texts of this model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tone_corpus: Path) -> Path:
    """Return the folder of a small model with random weights."""
    out = tmp_path_factory.mktemp("model") / "random"
    corpora = [
        str(make_tone_corpus(out.parent / locale, locale=locale, splits={"train": 1}))
        for locale in ("zh-TW", "de")
    ]
    shape = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "heads": 2}
    make_tiny_model(
        TinyModelConfig(out=str(out), corpus=(str(tone_corpus), *corpora), init_std=0.3, **shape)
    )
    return out


@pytest.fixture
def whisper(folder: Path) -> Whisper:
    """Return that model, with an end token that is as likely as one of its common tokens."""
    whisper = load_whisper(str(folder))
    whisper.model.eval()
    weight = whisper.model.model.decoder.embed_tokens.weight
    with torch.no_grad():
        weight[whisper.labels().end_id] = 1.05 * weight[COMMON]
    return whisper


@pytest.fixture
def clips(tone_corpus: Path) -> list[Utterance]:
    """Return clips of different lengths and languages."""
    found = list(read(DataConfig(corpus=(str(tone_corpus),)), "train"))
    rows = sorted(found, key=lambda u: -u.seconds)[:: len(found) // CLIPS][:CLIPS]
    languages = ["en", "zh", "de"] * CLIPS
    return [replace(u, language=lang) for u, lang in zip(rows, languages, strict=False)]


def batch_of(whisper: Whisper, clips: list[Utterance], *, true_length: bool) -> Batch:
    """Return a Batch of clips, as an evaluation prepares it."""
    preparer = BatchPreparer(whisper.labels(), whisper.n_mels)
    batches = [list(range(len(clips)))]
    config = DataConfig(workers=0)
    (batch,) = eval_batches(clips, config, preparer, batches, true_length=true_length)
    return batch


def window_of(whisper: Whisper, clips: list[Utterance], *, true_length: bool = True) -> Window:
    """Return a batch of encoded clips."""
    batch = batch_of(whisper, clips, true_length=true_length)
    states = encode(whisper, batch)
    assert states is not None
    return Window(whisper, batch, CONFIG, states)


def both(window: Window, *, graphs: bool | None = None) -> tuple[list[list[int]], list[list[int]]]:
    """Return the token ids of both ways of decoding, each text up to its end or its limit."""
    with torch.inference_mode():
        decoder = GreedyDecoder(window.whisper, graphs=graphs)
        found = replace(window, greedy=decoder).decode_greedily()
        expected = window.decode(range(len(found)))
    return trimmed(window, found), trimmed(window, expected)


def trimmed(window: Window, rows: list[list[int]]) -> list[list[int]]:
    """Cut token ids behind the end token, or at the clip's own limit."""
    labels, cut = window.whisper.labels(), []
    end, prefix = labels.end_id, len(labels.prefix("en"))
    for index, ids in enumerate(rows):
        own = ids[: prefix + window._max_tokens(index)]
        cut.append(own[: own.index(end) + 1] if end in own else own)
    return cut


@pytest.fixture
def rows_of_steps(whisper: Whisper) -> Iterator[list[torch.Size]]:
    """Return the shapes of the decoder's inputs, a step each, while the test runs."""
    shapes: list[torch.Size] = []
    norm = whisper.model.model.decoder.layers[0].self_attn_layer_norm
    hook = norm.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape[:2]))
    yield shapes
    hook.remove()


# the same tokens as generate()


@pytest.mark.parametrize("graphs", [False, True], ids=["exact sizes", "powers of two"])
@pytest.mark.parametrize("task", ["transcribe", "translate"])
@pytest.mark.parametrize("how", ["padded", "true length", "silence states"])
def test_tokens_are_those_of_generate(
    whisper: Whisper, clips: list[Utterance], how: str, task: Any, graphs: bool
) -> None:
    if how == "silence states":
        set_silence_states(whisper.model, compute_silence_states(whisper.model))
    clips = [replace(u, task=task) for u in clips]
    window = window_of(whisper, clips, true_length=how != "padded")
    found, expected = both(window, graphs=graphs)
    assert found == expected
    lengths = {len(ids) for ids in found}
    assert len(lengths) > 2  # the texts end at different steps
    assert max(lengths) > START_LENGTH  # the cache had to grow
    results = [window.result(i, ids) for i, ids in enumerate(found)]
    assert {r.truncated for r in results} == {True, False}


def test_suppressed_tokens_are_those_of_generate(whisper: Whisper, clips: list[Utterance]) -> None:
    window, config = window_of(whisper, clips), whisper.model.generation_config
    (free, *_), _ = both(window)
    prefix = len(whisper.labels().prefix("en"))
    config.begin_suppress_tokens = [free[prefix], 10**6]
    config.suppress_tokens = [free[prefix + 1], 10**6, -1]  # ids beyond the vocabulary are ignored
    found, expected = both(window)
    assert found == expected
    assert found[0][prefix] != free[prefix]
    assert all(free[prefix + 1] not in ids[prefix:] for ids in found)


def test_a_suppressed_token_is_not_decoded_whatever_its_logit(
    whisper: Whisper, clips: list[Utterance]
) -> None:
    whisper.model.generation_config.suppress_tokens = [COMMON]
    whisper.model.model.decoder.embed_tokens.weight.data[COMMON] = torch.nan
    found, expected = both(window_of(whisper, clips))
    assert found == expected
    assert all(COMMON not in ids for ids in found)


def test_an_english_only_model_has_no_language_token(
    whisper: Whisper, clips: list[Utterance]
) -> None:
    config = whisper.model.generation_config
    config.is_multilingual = False
    del config.lang_to_id, config.task_to_id
    window = window_of(whisper, [replace(u, language="en") for u in clips])
    assert decodes_greedily(whisper, CONFIG)
    found, expected = both(window)
    assert found == expected
    labels = whisper.labels()
    assert found[0][:2] == labels.prefix("en")
    window.batch.languages = [""] * CLIPS  # as when nobody says which language it is
    assert both(window)[0] == found


def test_a_text_ends_at_the_last_position_of_the_decoder(
    whisper: Whisper, clips: list[Utterance]
) -> None:
    config = replace(CONFIG, max_length=448, tokens_per_second=1000.0)
    whisper.model.generation_config.suppress_tokens = [whisper.labels().end_id]
    window = replace(window_of(whisper, clips[:2]), config=config)
    found, expected = both(window)
    assert found == expected
    assert [len(ids) for ids in found] == [448, 448]
    assert all(r.truncated for r in map(window.result, range(2), found))


# what is left to generate()


@pytest.mark.parametrize(
    ("knobs", "option", "greedy"),
    [
        ({}, {}, True),
        ({}, {"no_repeat_ngram_size": 2}, False),
        ({}, {"repetition_penalty": 1.0}, True),
        ({}, {"repetition_penalty": 1.3}, False),
        ({"num_beams": 2}, {}, False),
        ({"timestamps": True}, {}, False),
    ],
)
def test_generate_decodes_where_an_option_asks_for_it(
    whisper: Whisper, knobs: Any, option: dict[str, Any], greedy: bool
) -> None:
    whisper.model.generation_config.update(**option)
    assert decodes_greedily(whisper, replace(CONFIG, **knobs)) == greedy


def test_an_option_of_the_model_changes_its_texts(whisper: Whisper, clips: list[Utterance]) -> None:
    window = window_of(whisper, clips)
    plain = transcribe(whisper, window.batch, CONFIG, window.states)
    whisper.model.generation_config.no_repeat_ngram_size = 2
    assert transcribe(whisper, window.batch, CONFIG, window.states) != plain


def test_an_end_token_of_the_model_ends_its_texts(whisper: Whisper, clips: list[Utterance]) -> None:
    window, config = window_of(whisper, clips), whisper.model.generation_config
    end = whisper.labels().end_id
    (free, *_), _ = both(window)
    plain = transcribe(whisper, window.batch, CONFIG, window.states)
    config.eos_token_id = [end]
    assert decodes_greedily(whisper, CONFIG)
    config.eos_token_id = [end, free[len(whisper.labels().prefix("en")) + 1]]
    (found, *_), (first, *_) = transcribe(whisper, window.batch, CONFIG, window.states), plain
    assert found.tokens < first.tokens


@pytest.mark.parametrize(
    "changed",
    [
        {"decoder_start_token_id": 1},
        {"no_timestamps_token_id": 1},
        {"lang_to_id": {"<|en|>": 1}},
        {"task_to_id": {"transcribe": 1}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_generate_decodes_where_a_prefix_is_unlike_that_of_labels(
    whisper: Whisper, changed: dict[str, Any]
) -> None:
    config = whisper.model.generation_config
    for name in changed:
        own, unlike = getattr(config, name), changed[name]
        setattr(config, name, {**own, **unlike} if isinstance(own, dict) else unlike)
        assert not decodes_greedily(whisper, CONFIG)
        setattr(config, name, None)  # generate() would fail without languages and tasks
        assert decodes_greedily(whisper, CONFIG)


@pytest.mark.parametrize("knobs", [{"num_beams": 2}, {}])
def test_limits_and_thresholds_are_those_of_the_knobs(
    whisper: Whisper, clips: list[Utterance], knobs: dict[str, Any]
) -> None:
    window, config = window_of(whisper, clips[:3]), replace(CONFIG, **knobs)
    plain = transcribe(whisper, window.batch, config, window.states)
    own = whisper.model.generation_config
    own.max_new_tokens = 3
    own.no_speech_threshold, own.logprob_threshold = 1e-9, 0.0
    own.compression_ratio_threshold = 0.01
    assert transcribe(whisper, window.batch, config, window.states) == plain
    assert (own.max_new_tokens, own.no_speech_threshold) == (3, 1e-9)
    assert whisper.model.generation_config is own


@pytest.mark.parametrize("forced", ["usual", "other"])
def test_only_the_usual_forced_tokens_are_decoded_greedily(whisper: Whisper, forced: str) -> None:
    config = whisper.model.generation_config
    config.is_multilingual = False
    del config.lang_to_id
    token = config.no_timestamps_token_id
    config.forced_decoder_ids = [[1, token if forced == "usual" else token - 1]]
    assert decodes_greedily(whisper, CONFIG) == (forced == "usual")


# less work


def test_only_rows_that_have_not_ended_are_computed(
    whisper: Whisper, clips: list[Utterance], rows_of_steps: list[torch.Size]
) -> None:
    window = window_of(whisper, clips)
    with torch.inference_mode():
        found = window.decode_greedily()
    prefix = len(whisper.labels().prefix("en"))
    texts = [len(ids) - prefix for ids in trimmed(window, found)]
    (rows, tokens), *steps = rows_of_steps
    assert (rows, tokens) == (CLIPS, prefix)
    assert all(tokens == 1 for _, tokens in steps)
    assert rows + sum(rows for rows, _ in steps) == sum(texts)  # no row is computed in vain


def test_sizes_for_cuda_graphs_are_powers_of_two(
    whisper: Whisper,
    clips: list[Utterance],
    rows_of_steps: list[torch.Size],
    capsys: pytest.CaptureFixture[str],
) -> None:
    decoder = GreedyDecoder(whisper, graphs=True)
    with torch.inference_mode():
        for group in (clips, clips[:3], clips):
            replace(window_of(whisper, group), greedy=decoder).decode_greedily()
    assert {rows for rows, _ in rows_of_steps} <= {1, 2, 4, 8}
    assert decoder._state is not None
    assert decoder._state.caches[0].cross_keys.shape[2] in {2**n for n in range(11)} | {1500}
    warnings = capsys.readouterr().out.splitlines()  # a CPU has no CUDA graphs
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: decoding runs without CUDA graphs, more slowly (")


@pytest.mark.parametrize("graphs", [False, True], ids=["exact sizes", "powers of two"])
def test_a_batch_does_not_see_what_an_earlier_one_left(
    whisper: Whisper, clips: list[Utterance], graphs: bool
) -> None:
    decoder = GreedyDecoder(whisper, graphs=graphs)
    window = replace(window_of(whisper, clips), greedy=decoder)
    with torch.inference_mode():
        first = window.decode_greedily()
        memory = decoder._state
        assert memory is not None
        for cache in memory.caches:
            for tensor in (cache.keys, cache.values, cache.cross_keys, cache.cross_values):
                tensor.fill_(torch.nan)
        assert window.decode_greedily() == first
        assert decoder._state is memory  # it was used again


def test_keys_and_values_of_a_clip_are_computed_once(
    whisper: Whisper, clips: list[Utterance]
) -> None:
    set_silence_states(whisper.model, compute_silence_states(whisper.model))
    window = window_of(whisper, clips)
    projected: list[Tensor] = []
    for layer in whisper.model.model.decoder.layers:
        for projection in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj):
            projection.register_forward_hook(lambda _, args, __: projected.append(args[0]))
    with torch.inference_mode():
        window.decode_greedily()
    layers = len(whisper.model.model.decoder.layers)
    silent = whisper.model.model.decoder.layers[0].encoder_attn.silence_behind(
        window.states.shape[1]
    )
    shapes = [tuple(each.shape) for each in projected]
    assert shapes.count(tuple(window.states.shape)) == 2 * layers
    assert shapes.count(tuple(silent.shape)) == 2 * layers  # for all clips of the batch
    assert len(shapes) == 4 * layers


class Operations(TorchDispatchMode):
    """Counts operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func in VIEWS)
        return func(*args, **(kwargs or {}))


def test_a_token_takes_fewer_operations_than_with_generate(
    whisper: Whisper, clips: list[Utterance]
) -> None:
    whisper.model.generation_config.suppress_tokens = [whisper.labels().end_id]  # texts never end
    set_silence_states(whisper.model, compute_silence_states(whisper.model))

    def count(decode: Callable[[Window], Any], tokens: int) -> int:
        window = window_of(whisper, clips[:2])
        window = replace(window, config=replace(CONFIG, max_length=tokens))
        # inference_mode() hides the parts of composite operations
        with torch.no_grad(), Operations() as operations:
            decode(window)
        return operations.count

    ways: list[Callable[[Window], Any]] = [Window.decode_greedily, lambda w: w.decode([0, 1])]
    greedy, generate = ((count(way, 14) - count(way, 4)) / 10 for way in ways)
    layers = len(whisper.model.model.decoder.layers)
    assert greedy <= 19 * layers + 18  # 246 at the depth of whisper-small
    assert generate > 20 * layers + 30
