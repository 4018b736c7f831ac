"""Parts of a model that are not trained, by their names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from data.errors import InputError


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the weights below each name: model.encoder, or *.layers.[01], or *.embed_positions.

    Raises:
        InputError: a name fits no weight.
    """
    weights = list(model.named_parameters(remove_duplicate=False))  # the LM head has two names
    for pattern in patterns:
        below = f"{pattern}.*"
        found = [w for name, w in weights if fnmatchcase(name, pattern) or fnmatchcase(name, below)]
        if not found:
            known = ", ".join(name for name, _ in model.named_modules() if 0 < name.count(".") < 2)
            raise InputError(f"model.freeze: {pattern!r} fits no weight; names begin with: {known}")
        for weight in found:
            weight.requires_grad_(False)


def refuse_frozen(model: nn.Module) -> None:
    """Refuse to train nothing.

    Raises:
        InputError: all weights are frozen.
    """
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("model.freeze leaves nothing to train: freeze less")
