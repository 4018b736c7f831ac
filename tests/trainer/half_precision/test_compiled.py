"""Compiled layers serve passes of all sizes, and a compiler that fails later ends no run."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.half_precision.test_forward import (
    difference,
    gradients_of,
    half_of,
    module_of,
)
from trainer.half_precision.compiled import compile_layers

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG: Any = torch._dynamo.config
SHAPE_CONFIG: Any = torch.fx.experimental._config


class Compiler:
    """A backend of torch.compile that compiles nothing, and counts or refuses what it is given."""

    graphs = 0
    fails = False

    def __call__(self, graph: Any, _: Any) -> Callable[..., Any]:
        if self.fails:
            raise RuntimeError("no compiler")
        self.graphs += 1
        forward: Callable[..., Any] = graph.forward
        return forward


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    """Return the backend of torch.compile; settings are those of before when the test ends."""
    backend = Compiler()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    of_torch = CONFIG.patch(suppress_errors=False, recompile_limit=8)
    with of_torch, SHAPE_CONFIG.patch(use_duck_shape=True):
        yield backend
    torch._dynamo.reset()


def test_layers_are_compiled_once_for_all_sizes_and_a_later_failure_ends_no_run(
    blank_model: Path, compiler: Compiler
) -> None:
    single = inputs(rows=1)
    expected = gradients_of(half_of(module_of(blank_model), torch.float32), single)
    # as a run builds it: in evaluation mode
    module = half_of(module_of(blank_model).eval(), torch.float32)
    assert module.half_forward is not None
    failed: list[str] = []
    compile_layers(module.half_forward, 80, module.silence, failed.append)
    assert not failed
    assert not module.whisper.training
    module.train()
    for rows, frames, tokens in [(2, 208, 7), (16, 400, 8), (32, 64, 32)]:
        gradients_of(module, inputs(rows, frames, tokens))
    assert compiler.graphs == 2  # an encoder layer and a decoder layer
    compiler.fails = True
    module.half_forward.weights.begin_update()
    assert difference(gradients_of(module, single), expected) < 1e-5


def inputs(rows: int, frames: int = 208, tokens: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, decoder inputs and labels of clips."""
    torch.manual_seed(0)
    ids = torch.randint(0, 200, (rows, tokens))
    return torch.randn(rows, 80, frames), ids, ids


def test_layers_that_fail_with_another_size_are_not_compiled(
    blank_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_for_one_size(layer: Callable[..., Tensor], dynamic: bool) -> Any:
        sizes: set[tuple[int, ...]] = set()

        def compiled(hidden: Tensor, *rest: Any) -> Tensor:
            sizes.add(tuple(hidden.shape))
            assert len(sizes) == 1, f"expected size {min(sizes)}, {dynamic}"
            return layer(hidden, *rest)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_for_one_size)
    module, failed = half_of(module_of(blank_model), torch.float32), list[str]()
    assert module.half_forward is not None
    compile_layers(module.half_forward, 80, module.silence, failed.append)
    (sentence,) = failed
    assert sentence.startswith("warning: torch.compile failed (expected size")
    assert module.half_forward.encoder_layer == module.half_forward.layers.encoder_layer
