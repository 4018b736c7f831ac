"""A fixture that ends the processes of the tests when their session ends."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import guardian


@pytest.fixture(autouse=True, scope="session")
def nothing_outlives_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have all that tests start killed when this process ends, whatever ends it."""
    owner = str(tmp_path_factory.getbasetemp())  # of this process alone
    command = [sys.executable, "-I", "-S", guardian.__file__, f"{guardian.MARK}={owner}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        os.environ[guardian.MARK] = owner  # after: the guardian is not to kill itself
        yield
