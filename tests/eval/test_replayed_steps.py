"""Steps that are replayed on the same tensors, as a CUDA graph does, decode what eager steps do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eval.device import capture_graph
from eval.greedy import GreedyDecoder
from eval.silence_states import compute_silence_states, set_silence_states
from eval.static_cache import DecodingState
from eval.whisper import Whisper, load_whisper
from tests.conftest import made_once
from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model

ROWS, POSITIONS = 5, 100
LIMITS = [3, 70, 9, 34, 20]  # tokens: rows leave, and the cache grows twice

pytestmark = pytest.mark.usefixtures("one_thread")


class RecordedStep(TorchDispatchMode):
    """Records a step's operations, and replays them on the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, output))
        return output

    def replay(self) -> None:
        """Compute all operations again, and store each result where the recorded one is."""
        for func, args, kwargs, output in self.operations:
            results = tree_leaves(func(*args, **kwargs))
            for stored, result in zip(tree_leaves(output), results, strict=True):
                if isinstance(stored, Tensor) and stored.data_ptr() != result.data_ptr():
                    stored.copy_(result)


@pytest.fixture
def whisper(shared: Any, tone_corpus: Any) -> Whisper:
    """Return a model of random weights that ends some texts before their limits."""
    shape: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "heads": 2}
    corpus = (str(tone_corpus),)

    def make(out: Any) -> None:
        make_tiny_model(TinyModelConfig(out=str(out), corpus=corpus, init_std=0.3, **shape))

    whisper = load_whisper(str(made_once(shared / "model" / "replayed", make)))
    whisper.model.eval()
    return whisper


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record steps in place of CUDA graphs; return the rows and cache length of each."""
    shapes: list[tuple[int, int]] = []

    def capture(self: GreedyDecoder, state: DecodingState, rows: int, length: int) -> RecordedStep:
        tensors = [state.ids, state.ended, state.limits, state.position]
        for cache in state.caches:
            tensors += [cache.keys, cache.values]
        before, recorded = [tensor.clone() for tensor in tensors], RecordedStep()
        with recorded:
            self._step(state, rows, length, state.position, self._suppressed)
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)  # a capture computes nothing
        shapes.append((rows, length))
        return recorded

    monkeypatch.setattr(GreedyDecoder, "_capture", capture)
    return shapes


class Streams:
    """The current stream of a GPU, on which captures fail."""

    def __init__(self) -> None:
        self.current, self.captures = "default", 0

    @contextmanager
    def stream(self, stream: str) -> Iterator[None]:
        """Make a stream the current one, as torch.cuda.stream() does."""
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, *_: Any, **__: Any) -> Iterator[None]:
        """Change the stream, and fail without restoring it, as torch.cuda.graph() does."""
        self.captures += 1
        self.current = "capture"
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        yield


def test_after_a_capture_that_fails_decoding_goes_on_in_its_stream(
    whisper: Whisper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = Streams()
    fakes = {
        "graph_pool_handle": object,
        "CUDAGraph": object,
        "current_stream": lambda: streams.current,
        "stream": streams.stream,
        "graph": streams.graph,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    states = torch.randn(ROWS, POSITIONS, whisper.model.config.d_model)
    prefixes, decoder = [whisper.labels().prefix("en")] * ROWS, GreedyDecoder(whisper, graphs=True)
    with torch.inference_mode():
        decoder.decode(states, prefixes, LIMITS)
        assert (streams.current, streams.captures) == ("default", 1)
        decoder.free()  # as after an out-of-memory error, which may be why it failed
        decoder.decode(states, prefixes, LIMITS)
    assert streams.captures == 2
    warnings = capsys.readouterr().out.splitlines()
    assert [w[:48] for w in warnings] == ["warning: decoding runs without CUDA graphs, more"] * 2


def test_the_error_of_a_capture_that_fails_is_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def capturing(*_: Any, **__: Any) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError(
                "CUDA error: operation failed due to a previous error during capture"
            )

    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    fakes = {"CUDAGraph": object, "current_stream": object, "stream": nullcontext}
    for name, fake in {**fakes, "graph": capturing}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    with pytest.raises(torch.OutOfMemoryError):
        capture_graph(work, None)


def change_silence(whisper: Whisper) -> None:
    """Set silence states of this model."""
    set_silence_states(whisper.model, 2 * compute_silence_states(whisper.model))


def change_weights(whisper: Whisper) -> None:
    """Change a weight in place, as training does."""
    whisper.model.model.decoder.layer_norm.weight.mul_(-1)


def test_a_batch_is_decoded_as_by_a_new_decoder(
    whisper: Whisper, captured: list[tuple[int, int]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    replaying = GreedyDecoder(whisper, graphs=True)
    changes: list[Callable[[Whisper], None]] = [lambda _: None, change_weights, change_silence]
    prefix, texts = whisper.labels().prefix("en"), []
    with torch.inference_mode():
        for change in changes:
            for rows in (ROWS, 2, ROWS):
                change(whisper)
                states = torch.randn(
                    rows, POSITIONS, whisper.model.config.d_model, generator=generator
                )
                found, expected = (
                    decoder.decode(states, [prefix] * rows, LIMITS[:rows])
                    for decoder in (replaying, GreedyDecoder(whisper, graphs=False))
                )
                assert found == expected
                texts += found
    assert len({tuple(ids) for ids in texts}) > len(texts) // 2
    assert {(8, 32), (2, 64), (1, 128)} <= set(captured)
    assert len(captured) < len(changes) * len(
        set(captured)
    )  # graphs are replayed for later batches
