"""A person's mistake, told in one sentence instead of a traceback."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """A mistake of the user: one sentence with the file or key, the value and the remedy."""


FULL = (errno.ENOSPC, errno.EDQUOT)
# a disk that has an error, or became read-only by one; a mount whose server has gone
BROKEN = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT)
DISK = (*FULL, *BROKEN)
RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")  # torchrun's, mpirun's
# what safetensors and torch.save raise is no OSError
DISK_SAID = re.compile(
    r"No space left on device|Disk quota exceeded|Input/output error|PytorchStreamWriter failed"
)
CLOSED = 141  # exit status where output was no longer read, as of programs that SIGPIPE ends
TOKEN = re.compile(r"hf_[A-Za-z0-9]{10,}")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn a person's mistake, or a full disk, into one line on stderr and exit status 2.

    Whoever stops reading what is printed, as `| head` does, ends it without a word.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # at the interpreter's end nobody could catch what this raises
    except InputError as error:
        _leave(str(error))
    except BrokenPipeError:
        if not _unread():
            raise
        sys.exit(CLOSED)
    except Exception as error:
        if not disk_failed(error):
            raise
        _leave(_disk_told(error, getattr(error, "filename", None) or os.getcwd()))


@contextmanager
def writing(place: object) -> Iterator[None]:
    """Name the folder that was written to where its disk is full: the error may not know it.

    Raises:
        InputError: it is.
    """
    try:
        yield
    except Exception as error:
        if not disk_failed(error):
            raise
        raise InputError(_disk_told(error, place)) from error


def _disk_told(error: Exception, place: object) -> str:
    if getattr(error, "errno", None) in BROKEN:
        reason = os.strerror(error.errno)  # type: ignore[attr-defined]  # it has one: see above
        return f"the disk failed ({place}: {reason}): mend it; what was written before is whole"
    return f"no space left ({place}): free some; what was written before is whole"


def disk_failed(error: Exception) -> bool:
    """Tell whether an error says that the disk is full or broken, whoever raised it."""
    return getattr(error, "errno", None) in DISK or bool(DISK_SAID.search(str(error)))


def launched_rank() -> str:
    """Return the rank that the launcher gave this process; 0 where it was started by itself."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0")


def redact(text: str) -> str:
    """Blot out access tokens of the Hugging Face Hub."""
    return TOKEN.sub("hf_…", text)


def _unread() -> bool:
    """Tell whether nobody reads what is printed; what is printed from now on goes nowhere then."""
    try:
        print(flush=True)  # another pipe may have broken, such as a worker's
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _leave(sentence: str) -> None:
    rank = launched_rank()
    print(
        redact(f"error: {sentence}" if rank == "0" else f"error on process {rank}: {sentence}"),
        file=sys.stderr,
    )
    sys.exit(2)
