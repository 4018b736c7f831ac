"""Training passes that are replayed as CUDA graphs.

There is no GPU here: capturing a graph is replaced by keeping the work, which a replay does again.
tests/gpu/test_graphs.py captures graphs.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from data.batch import target_positions
from data.errors import InputError
from eval.whisper import load_whisper
from tests.trainer.half_precision.test_forward import half_of, module_of
from trainer.distributed.build_engine import build_engine
from trainer.half_precision import graphs
from trainer.half_precision.graph_check import check_graphs
from trainer.half_precision.graphs import Inputs, PassGraphs
from trainer.model import ModelConfig, TrainingModule, prepare_training
from trainer.optimizer import OptimConfig

Work = Callable[[], None]


class Captures:
    """Stands for CUDA: notes what is captured, and fails when it is told to."""

    def __init__(self) -> None:
        """Start without failures."""
        self.count = 0
        self.errors: list[Exception] = []

    def __call__(self, work: Work, pool: Any) -> SimpleNamespace:
        """Return what does the work when it is replayed."""
        if self.errors:
            raise self.errors.pop(0)
        self.count += 1
        # replays are in an autograd function, captures are not
        return SimpleNamespace(replay=torch.enable_grad()(work))


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """Replace capturing."""
    found = Captures()
    monkeypatch.setattr(graphs, "capture_graph", found)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 1))
    return found


@pytest.fixture
def module(blank_model: Path) -> TrainingModule:
    """Return a module in half precision that replays graphs."""
    found = half_of(module_of(blank_model, dropout=0.1), torch.bfloat16)
    found.graphs = PassGraphs(found.losses, print)
    return found


def inputs(seed: int, rows: int = 3, targets: int = 9) -> Inputs:
    """Return a pass with so many targets."""
    torch.manual_seed(seed)
    ids, labels = torch.randint(0, 200, (2, rows, 7))
    labels.flatten()[torch.randperm(labels.numel())[targets:]] = -100
    return Inputs(torch.randn(rows, 80, 48), ids, labels, target_positions(labels))


def passes(module: TrainingModule, batches: list[Inputs], seed: int = 3) -> tuple[Tensor, Tensor]:
    """Make an update's passes; return the losses of all targets, and the gradient."""
    assert module.half_forward is not None
    module.half_forward.weights.begin_update()
    torch.manual_seed(seed)
    losses = []
    for features, ids, labels, targets in batches:
        losses.append(module(features, ids, labels, targets=targets))
        (losses[-1].sum() * 0.5).backward()
    return torch.cat([each.detach() for each in losses]), module.half_forward.weights.gradient


def eager(module: TrainingModule, batches: list[Inputs]) -> tuple[Tensor, Tensor]:
    """Make the passes without graphs."""
    kept, module.graphs = module.graphs, None
    losses, gradient = passes(module, batches)
    module.graphs = kept
    return losses, gradient.clone()


def test_replays_give_the_losses_and_the_gradient_of_eager_passes(
    module: TrainingModule, captures: Captures
) -> None:
    # numbers of targets differ; none at all: all clips of a pass failed
    batches = [inputs(0), inputs(1, targets=4), inputs(2, rows=2), inputs(3, targets=0)]
    losses, gradient = eager(module, batches)
    for _ in range(4):
        found, accumulated = passes(module, batches)
        assert torch.equal(found, losses)
        assert torch.equal(accumulated, gradient)
    assert captures.count == 6  # two a shape; the other shape's first pass released the first ones


def test_replays_read_the_current_weights_and_silence_states(
    module: TrainingModule, captures: Captures
) -> None:
    passes(module, [inputs(0)])
    before, _ = passes(module, [inputs(0)])
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.01)
    after, gradient = passes(module, [inputs(0)])
    assert not torch.equal(after, before)
    assert all(map(torch.equal, (after, gradient), eager(module, [inputs(0)])))
    module.update_silence_states(module.whisper)
    silent, gradient = passes(module, [inputs(0)])
    assert not torch.equal(silent, after)
    assert all(map(torch.equal, (silent, gradient), eager(module, [inputs(0)])))
    assert captures.count == 2


def test_evaluation_mode_runs_eagerly(module: TrainingModule, captures: Captures) -> None:
    module.eval()
    features, ids, labels, targets = inputs(0)
    with torch.no_grad():
        module(features, ids, labels, targets=targets)
    assert captures.count == 0


def test_a_capture_that_fails_disables_graphs_with_one_sentence(
    module: TrainingModule, captures: Captures, capsys: pytest.CaptureFixture[str]
) -> None:
    captures.errors.append(RuntimeError("operation not permitted\ndetails"))
    losses, gradient = eager(module, [inputs(0)])
    for _ in range(3):
        found, accumulated = passes(module, [inputs(0)])
        assert torch.equal(found, losses)
        assert torch.equal(accumulated, gradient)
    assert capsys.readouterr().out == (
        "warning: training runs without CUDA graphs (operation not permitted); "
        "model.cuda_graphs=false does not try them\n"
    )
    assert captures.count == 0


def test_the_first_pass_of_a_shape_is_eager_and_gets_the_memory_of_graphs(
    module: TrainingModule, captures: Captures
) -> None:
    for _ in range(2):
        passes(module, [inputs(0)])
    assert captures.count == 2
    passes(module, [inputs(1, rows=2)])  # releases them
    assert captures.count == 2
    for _ in range(2):
        passes(module, [inputs(0), inputs(1, rows=2)])
    assert captures.count == 6


def test_out_of_memory_releases_all_graphs_and_the_smaller_pass_is_captured(
    module: TrainingModule, captures: Captures
) -> None:
    for _ in range(2):
        passes(module, [inputs(0, rows=2)])
    passes(module, [inputs(0, rows=3)])
    captures.errors.append(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    with pytest.raises(torch.OutOfMemoryError):
        passes(module, [inputs(0, rows=3)])
    losses, gradient = eager(module, [inputs(0, rows=2)])
    found, accumulated = passes(module, [inputs(0, rows=2)])
    assert torch.equal(found, losses)
    assert torch.equal(accumulated, gradient)
    assert captures.count == 4


def test_with_more_shapes_than_the_limit_a_sentence_says_so_and_passes_run_eagerly(
    module: TrainingModule,
    captures: Captures,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(graphs, "MAX_SHAPES", 1)
    batches = [inputs(0), inputs(0), inputs(1, rows=2)]
    losses, gradient = eager(module, batches)
    for _ in range(2):
        found, accumulated = passes(module, batches)
        assert torch.equal(found, losses)
        assert torch.equal(accumulated, gradient)
    assert captures.count == 2
    assert "(passes have more than 1 shapes without data.fixed_shapes)" in capsys.readouterr().out


def checked(module: TrainingModule) -> PassGraphs:
    """Check the graphs of a module before training."""
    assert module.half_forward is not None
    assert module.graphs is not None
    config, weights = module.whisper.config, module.half_forward.weights
    check_graphs(
        module.graphs, module.losses, weights, n_mels=config.num_mel_bins, tokens=config.vocab_size
    )
    return module.graphs


def test_the_check_before_training_passes_where_replays_are_right(
    module: TrainingModule, captures: Captures, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(module).enabled
    assert captures.count == 4
    assert not capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["inputs", "gradient", "dropout"])
def test_the_check_before_training_finds_replays_that_are_wrong(
    module: TrainingModule,
    captures: Captures,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    replay = graphs.GraphedPass.forward
    if wrong == "inputs":  # replays read those of the first pass
        first: dict[int, Inputs] = {}
        monkeypatch.setattr(
            graphs.GraphedPass,
            "forward",
            lambda self, batch: replay(
                self, first.setdefault(id(self), batch)._replace(targets=batch.targets)
            ),
        )
    elif wrong == "gradient":
        accumulate = graphs.GraphedPass.backward
        monkeypatch.setattr(
            graphs.GraphedPass,
            "backward",
            lambda self, targets, gradient: accumulate(self, targets, 1.1 * gradient),
        )
    else:
        monkeypatch.setattr(graphs, "capture_graph", _with_its_own_seed)
    assert not checked(module).enabled
    assert "without CUDA graphs (their gradient differs by" in capsys.readouterr().out


def _with_its_own_seed(work: Work, pool: Any) -> SimpleNamespace:
    @torch.enable_grad()
    def replay() -> None:
        torch.manual_seed(99)
        work()

    return SimpleNamespace(replay=replay)


@pytest.fixture
def fresh_state() -> Iterator[None]:
    """Reset Accelerate's state."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_state")
def test_without_a_gpu_the_knob_is_refused_with_one_sentence(wide_model: Path) -> None:
    accelerator, config = (
        Accelerator(cpu=True, mixed_precision="bf16"),
        ModelConfig(cuda_graphs=True),
    )
    module = prepare_training(load_whisper(str(wide_model)), config)
    with pytest.raises(InputError, match=r"^model\.cuda_graphs=true needs a GPU"):
        build_engine(accelerator, module, config, OptimConfig(), print)
