"""The memory of an evaluation batch is estimated, and its clips are as many as fit."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import WhisperConfig, WhisperForConditionalGeneration

from data.batch import Batch, Position, target_positions
from data.log_mel import FRAMES_PER_SECOND, HOP_LENGTH, LogMel
from eval.batch_size import FRAME_BYTES, GPU_ROWS, GPU_SECONDS, USED_SHARE, BatchMemory
from eval.config import EvalConfig
from eval.device import free_memory
from eval.generate import encode
from eval.greedy import GreedyDecoder
from eval.reference_loss import reference_losses
from eval.silence_states import patch_attention, set_silence_states
from eval.whisper import TrueLengthEncoder, Whisper, load_whisper

TINY_EN, BASE = (384, 4, 6, 51864), (512, 6, 8, 51865)  # width, layers, heads, vocabulary
CONFIG = EvalConfig(max_length=4)
LABEL_TOKENS = 24

pytestmark = pytest.mark.usefixtures("one_thread")


def whisper_of(blank_model: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Whisper:
    """Return a model of a published shape, whose weights are all the same."""
    width, layers, heads, vocabulary = shape
    sides = {"layers": layers, "attention_heads": heads, "ffn_dim": 4 * width}
    config = WhisperConfig(
        d_model=width,
        vocab_size=vocabulary,
        **{f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in sides.items()},
    )
    with torch.device("meta"):
        model: Any = WhisperForConditionalGeneration._from_config(
            config, attn_implementation="sdpa", dtype=dtype
        )
    model.to_empty(device="cpu").eval()
    for weight in model.parameters():
        weight.data.fill_(0.01)
    model.model.encoder.__class__ = TrueLengthEncoder
    patch_attention(model)
    return replace(load_whisper(str(blank_model)), model=model)


def batch_of(rows: int, seconds: float) -> Batch:
    """Return a batch of noise with labels."""
    labels = torch.ones(rows, LABEL_TOKENS, dtype=torch.long)
    return Batch(
        ids=[str(row) for row in range(rows)],
        languages=["en"] * rows,
        tasks=["transcribe"] * rows,
        features=torch.randn(rows, 80, round(seconds * FRAMES_PER_SECOND)),
        decoder_input_ids=labels,
        labels=labels,
        targets=target_positions(labels),
        seconds=[seconds] * rows,
        tokens=[LABEL_TOKENS] * rows,
        position=Position(),
        next_position=Position(),
        is_last=True,
    )


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that were allocated at a time."""
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        work()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def evaluate_twice(whisper: Whisper, greedy: GreedyDecoder, rows: int, seconds: float) -> None:
    """Evaluate a batch, while the decoder holds the memory of one before."""
    prefixes = [whisper.labels().prefix("en")] * rows
    limits = [CONFIG.max_tokens(seconds)] * rows
    width, positions = whisper.model.config.d_model, round(seconds * FRAMES_PER_SECOND) // 2
    greedy.decode(
        torch.zeros(rows, positions, width, dtype=whisper.model.dtype), prefixes, [1] * rows
    )
    batch = batch_of(rows, seconds)
    states = encode(whisper, batch)
    assert states is not None
    greedy.decode(states, prefixes, limits)
    reference_losses(whisper, batch, states)


@pytest.mark.parametrize("graphs", [False, True], ids=["exact sizes", "powers of two"])
@pytest.mark.parametrize(
    ("shape", "dtype", "rows", "seconds"),
    [
        (TINY_EN, torch.float32, 1, 15.04),
        (TINY_EN, torch.bfloat16, 6, 2.4),
        (BASE, torch.bfloat16, 2, 5.12),
    ],
)
def test_the_estimate_is_what_a_batch_takes_at_its_peak(
    blank_model: Path,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    rows: int,
    seconds: float,
    graphs: bool,
) -> None:
    whisper = whisper_of(blank_model, shape, dtype)
    if seconds < 5:
        set_silence_states(whisper.model, torch.randn(shape[1] + 1, 188, shape[0]))
    greedy = GreedyDecoder(whisper, graphs=graphs)
    memory = BatchMemory(whisper=whisper, greedy=greedy, config=CONFIG, label_tokens=LABEL_TOKENS)
    with torch.inference_mode():
        measured = peak_bytes(lambda: evaluate_twice(whisper, greedy, rows, seconds))
    assert measured <= memory.bytes(rows, seconds) <= 1.3 * measured


@pytest.mark.parametrize("seconds", [2.4, 30.0])
def test_the_features_of_a_frame_take_as_much_as_is_estimated(seconds: float) -> None:
    frames, mel = round(seconds * FRAMES_PER_SECOND), LogMel(80)
    waveforms = torch.randn(1, frames * HOP_LENGTH)
    measured = peak_bytes(lambda: mel(waveforms))
    assert measured <= frames * FRAME_BYTES <= 1.3 * measured


@pytest.fixture
def memory(blank_model: Path) -> BatchMemory:
    """Return estimates for the shape of whisper-tiny.en in bf16, decoded with CUDA graphs."""
    whisper = whisper_of(blank_model, TINY_EN, torch.bfloat16)
    greedy = GreedyDecoder(whisper, graphs=True)
    return BatchMemory(
        whisper=whisper, greedy=greedy, config=EvalConfig(), label_tokens=LABEL_TOKENS
    )


@pytest.mark.parametrize("seconds", [0.96, 30.0])
def test_the_largest_power_of_two_that_fits_is_taken(memory: BatchMemory, seconds: float) -> None:
    for rows in (2, 16):
        needed = memory.bytes(rows, seconds) / USED_SHARE
        assert memory.rows(seconds, needed + 1) == rows
        assert memory.rows(seconds, needed - 1) == rows // 2
    assert memory.rows(seconds, 0) == 1  # a batch of one clip cannot be split


def test_a_batch_is_no_larger_than_what_saturates_a_gpu(memory: BatchMemory) -> None:
    assert memory.rows(30.0, 1e15) == 64 == GPU_SECONDS / 30
    assert memory.rows(16.0, 1e15) == 64  # 120 would fit into GPU_SECONDS
    assert memory.rows(0.96, 1e15) == GPU_ROWS


def test_what_takes_more_memory_leaves_room_for_fewer_clips(memory: BatchMemory) -> None:
    free = memory.bytes(16, 30.0) / USED_SHARE + 1
    wide = replace(memory.whisper, model=deepcopy(memory.whisper.model).float())
    more: list[BatchMemory] = [
        replace(memory, config=EvalConfig(num_beams=5)),
        replace(memory, label_tokens=448),
        replace(memory, whisper=wide),
    ]
    assert [each.rows(30.0, free) < 16 for each in more] == [True] * 3


def test_the_tokens_before_a_text_are_in_the_cache_too(memory: BatchMemory) -> None:
    for limit, tokens in ((252, 256), (253, 448)):  # the sizes that a cache has
        each = replace(memory, config=EvalConfig(max_length=limit))
        whole = replace(memory, config=EvalConfig(max_length=tokens - 4))
        assert each.bytes(1, 30.0) == whole.bytes(1, 30.0)


@pytest.mark.parametrize(("fraction", "free"), [(1.0, 50), (0.5, 30)])
def test_memory_that_the_allocator_caches_is_free(
    fraction: float, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {  # bytes of a GPU that no machine without one has
        "mem_get_info": (40, 100),
        "memory_reserved": 30,
        "memory_allocated": 20,
        "get_per_process_memory_fraction": fraction,
    }
    for name, figure in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, figure=figure: figure)
    assert free_memory(torch.device("cuda")) == free
