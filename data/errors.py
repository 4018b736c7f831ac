"""A person's mistake, told in one sentence instead of a traceback."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """A mistake of the user: one sentence with the file or key, the value and the remedy."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn a person's mistake, or a full disk, into one line on stderr and exit status 2."""
    try:
        yield
    except InputError as error:
        _leave(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = error.filename or os.getcwd()
        _leave(
            f"no space left on the disk of {place}: free some and start again with --resume=auto"
        )


def _leave(sentence: str) -> None:
    rank = os.environ.get("RANK", "0")
    print(
        f"error: {sentence}" if rank == "0" else f"error on process {rank}: {sentence}",
        file=sys.stderr,
    )
    sys.exit(2)
