"""A check of CUDA graphs before training: replays give the gradients of eager passes."""

from itertools import product

import torch
from torch import Tensor

from trainer.half_precision.graphs import Inputs, Losses, PassGraphs, all_targets
from trainer.half_precision.weights import HalfWeights

# clips, frames and tokens, all different
SHAPES = ((3, 48, 5), (1, 48, 5))
PASSES = 4  # of a shape: the first is eager, the second is captured, and two more are replayed
MAX_ERROR = 0.01  # of the gradient, relative to its norm: sums may be made in another order


def check_graphs(
    graphs: PassGraphs, compute: Losses, weights: HalfWeights, *, n_mels: int, tokens: int
) -> None:
    """Compare gradients of replays with those of eager passes; disable graphs if they differ.

    Args:
        graphs: of a model in training mode.
        compute: what they capture.
        weights: of the model; gradients are accumulated there.
        n_mels: mel channels of the features.
        tokens: size of the vocabulary.
    """

    def eager(inputs: Inputs) -> Tensor:
        return compute(all_targets(inputs))[inputs.targets]  # products of the same sizes

    device = weights.gradient.device
    for seed, (rows, frames, length) in product(range(PASSES), SHAPES):
        torch.manual_seed(seed)
        ids, labels = torch.randint(tokens, (2, rows, length), device=device)
        targets = torch.arange(seed, rows * length, device=device)
        inputs = Inputs(torch.randn(rows, n_mels, frames, device=device), ids, labels, targets)
        expected = _gradient(eager, inputs, weights, seed)
        found = _gradient(graphs, inputs, weights, seed)
        error = float(found.sub_(expected).norm() / expected.norm())
        if not error <= MAX_ERROR:
            graphs.disable(f"their gradient differs by {error:.1%} from that of eager passes")
            return
    graphs.clear()


def _gradient(compute: Losses, inputs: Inputs, weights: HalfWeights, seed: int) -> Tensor:
    """Return the gradient of a pass, with dropout of a seed."""
    weights.begin_update()
    torch.manual_seed(seed)
    compute(inputs).sum().backward()
    return weights.gradient.clone()
