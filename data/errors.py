"""InputError, and how commands report user errors and full disks in one line."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """An error in the user's input: one sentence with the file or key, the value and a remedy."""


DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# an I/O error, a file system remounted read-only after one, or a network mount that is gone
DISK_BROKEN = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT)
DISK_ERRORS = (*DISK_FULL, *DISK_BROKEN)
# set by torchrun, and by Open MPI's, MPICH's and MVAPICH's mpirun
RANK_VARIABLES = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
# safetensors and torch.save raise other types than OSError
DISK_ERROR_TEXT = re.compile(
    r"No space left on device|Disk quota exceeded|Input/output error|PytorchStreamWriter failed"
)
BROKEN_PIPE_STATUS = 141  # exit status 128 + SIGPIPE, as of programs that the signal ends
HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{10,}")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Report an InputError or a full disk in one line on stderr, with exit status 2.

    If stdout is closed, as by `| head`, exit silently with status 141.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, since an error at interpreter exit could not be caught
    except InputError as error:
        _exit_with_error(str(error))
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        sys.exit(BROKEN_PIPE_STATUS)
    except Exception as error:
        if not is_disk_error(error):
            raise
        _exit_with_error(
            _disk_error_message(error, getattr(error, "filename", None) or os.getcwd())
        )


@contextmanager
def report_disk_errors(path: object) -> Iterator[None]:
    """Turn a disk error into an InputError that names the path, which the error may lack.

    Args:
        path: what is written to.

    Raises:
        InputError: the disk is full or broken.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_error(error):
            raise
        raise InputError(_disk_error_message(error, path)) from error


def _disk_error_message(error: Exception, path: object) -> str:
    if getattr(error, "errno", None) in DISK_BROKEN:
        reason = os.strerror(error.errno)  # type: ignore[attr-defined]  # checked above
        return f"the disk failed ({path}: {reason}): repair it; files written before are intact"
    return f"no space left ({path}): free some space; files written before are intact"


def is_disk_error(error: Exception) -> bool:
    """Return whether an error of any type means that the disk is full or broken."""
    return getattr(error, "errno", None) in DISK_ERRORS or bool(DISK_ERROR_TEXT.search(str(error)))


def launched_rank() -> str:
    """Return the rank from the launcher's environment variables; "0" without a launcher."""
    return next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0")


def redact(text: str) -> str:
    """Replace access tokens of the Hugging Face Hub by hf_…."""
    return HUB_TOKEN.sub("hf_…", text)


def _stdout_is_closed() -> bool:
    """Return whether stdout is a closed pipe; if so, redirect it to /dev/null."""
    try:
        print(flush=True)  # fails only if stdout is the broken pipe, and not a worker's, say
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _exit_with_error(message: str) -> None:
    rank = launched_rank()
    print(
        redact(f"error: {message}" if rank == "0" else f"error on process {rank}: {message}"),
        file=sys.stderr,
    )
    sys.exit(2)
