"""A person's mistake, told in one sentence instead of a traceback."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """A mistake of the user: one sentence with the file or key, the value and the remedy."""


# what safetensors and torch.save raise is no OSError
FULL = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn a person's mistake, or a full disk, into one line on stderr and exit status 2."""
    try:
        yield
    except InputError as error:
        _leave(str(error))
    except Exception as error:
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and not any(
            told in str(error) for told in FULL
        ):
            raise
        place = getattr(error, "filename", None) or os.getcwd()
        _leave(f"no space left ({place}): free some; what was written before is whole")


def _leave(sentence: str) -> None:
    rank = os.environ.get("RANK", "0")
    print(
        f"error: {sentence}" if rank == "0" else f"error on process {rank}: {sentence}",
        file=sys.stderr,
    )
    sys.exit(2)
