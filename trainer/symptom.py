"""What a check of the doctor's found."""

from typing import NamedTuple


class Symptom(NamedTuple):
    """What a check found."""

    ok: bool | None  # None: there was nothing to look at
    found: str
    remedy: str = ""  # what to do, where it is not ok
