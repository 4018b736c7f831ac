"""CUDA graphs of training passes: a pass is two launches from the host, forward and backward.

A small model's kernels take the GPU less time than the host takes to launch them. A graph holds
them all, and is launched at once. It is captured for one shape, so few shapes are needed
(data.fixed_shapes), and always reads and writes the same memory: inputs are copied there, weights
are cast there (HalfWeights), and the gradient is added there. Dropout is drawn from the seed of the
update, as in eager passes.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eval.device import capture_graph, is_out_of_memory

MAX_SHAPES = 64  # more are not few; their graphs would take too much memory


class Inputs(NamedTuple):
    """The inputs of a pass."""

    features: Tensor  # (batch, n_mels, frames)
    ids: Tensor  # of the decoder's input, (batch, tokens)
    labels: Tensor  # (batch, tokens)
    targets: Tensor  # positions of target tokens in the flattened labels, (targets,)


def all_targets(inputs: Inputs) -> Inputs:
    """Return inputs in which every position is a target."""
    labels = inputs.labels
    return inputs._replace(targets=torch.arange(labels.numel(), device=labels.device))


Losses = Callable[[Inputs], Tensor]  # of the targets, (targets,)


class GraphedPass:
    """The memory and the graphs of passes of one shape, in which every position is a target.

    Those that are no targets of a pass have a gradient of 0.
    """

    losses: Tensor  # (batch * tokens,)

    def __init__(self, compute: Losses, inputs: Inputs, pool: Any) -> None:
        """Capture the graphs.

        Args:
            compute: returns the loss of each target; its backward pass accumulates gradients.
            inputs: of a pass of this shape.
            pool: memory that graphs share.
        """
        self._inputs = all_targets(Inputs(*map(torch.empty_like, inputs)))
        self._gradient = torch.zeros_like(self._inputs.targets, dtype=torch.float32)

        def forward() -> None:
            self.losses = compute(self._inputs)

        def backward() -> None:
            torch.autograd.backward(self.losses, self._gradient)
            self.losses = self.losses.detach()

        self._forward = capture_graph(forward, pool)
        self._backward = capture_graph(backward, pool)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the loss of each target token. Shape: (targets,)."""
        for memory, value in zip(self._inputs[:-1], inputs[:-1], strict=True):
            memory.copy_(value)
        self._forward.replay()
        return self.losses.detach()[inputs.targets]  # a copy: the next pass writes there

    def backward(self, targets: Tensor, gradient: Tensor) -> None:
        """Accumulate gradients, given that of the losses. Shapes: (targets,)."""
        self._gradient.zero_()
        self._gradient[targets] = gradient
        self._backward.replay()


class Replay(torch.autograd.Function):
    """A pass computed by graphs, for autograd."""

    @staticmethod
    def forward(ctx: Any, trained: Tensor, graphed: GraphedPass, inputs: Inputs) -> Tensor:
        """Return the loss of each target token.

        Args:
            ctx: of the backward pass.
            trained: a tensor that requires a gradient, and gets none: without it autograd would
                not call backward().
            graphed: computes the pass.
            inputs: of the pass.
        """
        ctx.graphed, ctx.targets = graphed, inputs.targets
        return graphed.forward(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        """Accumulate gradients where compute() does, not in inputs."""
        ctx.graphed.backward(ctx.targets, gradient)
        return None, None, None


class PassGraphs:
    """Captures the second pass of each shape, and replays it for later ones."""

    def __init__(self, compute: Losses, print_fn: Callable[[str], None]) -> None:
        """Store what computes a pass.

        Args:
            compute: returns the loss of each target. Its backward pass adds gradients to memory
                that stays the same.
            print_fn: prints warnings.
        """
        self._compute = compute
        self._print = print_fn
        self._graphed: dict[tuple[torch.Size, torch.Size], GraphedPass] = {}
        self._seen: set[tuple[torch.Size, torch.Size]] = set()
        self._pool: Any = None  # memory that all graphs share: only one of them runs at a time
        self.enabled = True

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the loss of each target token, by a graph if there can be one.

        Shape: (targets,).
        """
        graphed = self._find(inputs)
        if graphed is None:
            return self._compute(inputs)
        trained = inputs.features.new_empty(0).requires_grad_()
        losses: Tensor = Replay.apply(trained, graphed, inputs)
        return losses

    def _find(self, inputs: Inputs) -> GraphedPass | None:
        """Return the graphs of a shape, captured at its second pass; None runs the pass eagerly.

        The first pass compiles layers and loads kernels, which is not possible during a capture.
        Graphs give their memory to it. Prints a warning if a capture fails.

        Raises:
            RuntimeError: memory ran out. All graphs are then released.
        """
        shape = inputs.features.shape, inputs.ids.shape
        if shape in self._graphed or not self.enabled:
            return self._graphed.get(shape)
        if shape not in self._seen:
            self._seen.add(shape)
            self.clear()
            if len(self._seen) > MAX_SHAPES:
                self.disable(f"passes have more than {MAX_SHAPES} shapes without data.fixed_shapes")
            return None
        try:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._graphed[shape] = GraphedPass(self._compute, inputs, self._pool)
        except (RuntimeError, AssertionError) as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                self.clear()
                raise
            self.disable(str(error).strip().split("\n")[0])
        return self._graphed.get(shape)

    def clear(self) -> None:
        """Release all graphs and their memory; later passes capture them again."""
        if self._graphed and torch.cuda.is_available():
            torch.cuda.synchronize()  # PyTorch waits for captures' stream only, not for replays
        self._graphed.clear()
        self._pool = None

    def disable(self, reason: str) -> None:
        """Print a warning, and run later passes eagerly."""
        self.clear()
        self.enabled = False
        self._print(
            f"warning: training runs without CUDA graphs ({reason}); model.cuda_graphs=false does "
            "not try them"
        )
