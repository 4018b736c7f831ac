"""Compile the layers of HalfForward with torch.compile: what lies between products is one kernel.

Layers are compiled, not the model: one encoder layer and one decoder layer stand for all of them,
and sizes are dynamic, so that few of them are compiled for new shapes.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental import _config as shape_config

from trainer.half_precision.forward import HalfForward

# rows, frames and tokens of the trial passes; 0 and 1 would be special cases. The first pass
# compiles, and the second shows whether what was compiled takes other sizes
TRIALS = ((3, 48, 5), (4, 64, 7))
# of compiled variants of a layer; beyond it torch.compile runs the layer eagerly. Passes with a
# single row, passes of 30 s, and a first layer whose input needs no gradient are variants
MAX_VARIANTS = 32


def compile_layers(
    forward: HalfForward, n_mels: int, silence: Tensor | None, print_fn: Callable[[str], None]
) -> None:
    """Compile the layers, and run passes; if one fails, print why and keep them as they were.

    Args:
        forward: computes the passes.
        n_mels: mel channels of the features.
        silence: of compute_silence_states(), or None.
        print_fn: prints warnings.
    """
    # torch.compile looks at it when it compiles, also later, for a pass with a single row
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
    # otherwise sizes that are equal in one pass, such as rows and projections, must be so in all
    shape_config.use_duck_shape = False
    config: Any = torch._dynamo.config
    config.recompile_limit = MAX_VARIANTS
    eager = forward.encoder_layer, forward.decoder_layer
    forward.encoder_layer, forward.decoder_layer = (
        torch.compile(layer, dynamic=True) for layer in eager
    )
    training = forward.whisper.training
    forward.whisper.train()  # as in training: a layer is compiled for one of the two modes
    try:
        for rows, frames, tokens in TRIALS:
            device = forward.weights.gradient.device
            features = torch.zeros(rows, n_mels, frames, device=device)
            _make_pass(forward, features, tokens, silence)
    except Exception as error:  # compilers fail in many ways
        forward.encoder_layer, forward.decoder_layer = eager
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        print_fn(
            f"warning: torch.compile failed ({reason}): training goes on without it; "
            "model.compile=false does not try it"
        )
    else:
        config.suppress_errors = True  # a variant that fails later runs eagerly, with a warning
    finally:
        forward.whisper.train(training)


def _make_pass(forward: HalfForward, features: Tensor, tokens: int, silence: Tensor | None) -> None:
    """Make a forward and backward pass in which every token is a target."""
    ids = torch.zeros(len(features), tokens, dtype=torch.long, device=features.device)
    forward.weights.begin_update()
    forward(features, ids, torch.arange(ids.numel(), device=ids.device), silence).sum().backward()
