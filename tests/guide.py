"""The guide as a program: its code blocks and their expected output."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "=== block"
GAP = "…"  # a line of it stands for any lines
RUN_SHELL = """import subprocess
subprocess.run(["bash", "-euo", "pipefail", "-c", {!r}], check=True)
"""


class Block(NamedTuple):
    """A fenced block: its language and its text."""

    kind: str
    text: str

    def bare(self) -> str:
        """Return its code without comments, which are in the reader's language."""
        if self.kind == "python":
            return ast.dump(ast.parse(self.text))
        lines = (re.sub(r"(^|\s+)#.*", "", line) for line in self.text.splitlines())
        return "\n".join(line for line in lines if line)


def blocks_of(guide: Path) -> list[Block]:
    """Return a guide's blocks, in order."""
    return [Block(*found) for found in FENCE.findall(guide.read_text(encoding="utf-8"))]


def program_of(blocks: list[Block]) -> str:
    """Return one Python program: python blocks share their names, bash blocks are run between."""
    parts = []
    for number, block in enumerate(blocks):
        if block.kind in ("python", "bash"):
            code = block.text if block.kind == "python" else RUN_SHELL.format(block.text)
            parts.append(f"print({MARK!r}, {number}, flush=True)\n{code}")
    return "\n".join(parts)


def environment() -> dict[str, str]:
    """Return the environment of the guides' programs: this interpreter, no network, no GPU."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "COLUMNS": "80",
    }


def run(blocks: list[Block], folder: Path) -> dict[int, str]:
    """Run a guide in a folder; return what each block printed, by its number."""
    program = folder / "guide.py"
    program.write_text(program_of(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pieces = re.split(rf"^{MARK} (\d+)\n", done.stdout, flags=re.MULTILINE)[1:]
    return {int(n): text for n, text in zip(pieces[::2], pieces[1::2], strict=True)}


def missing_from(printed: str, expected: str) -> str | None:
    """Return the first part of the expected output that was not printed, or None."""
    rest = printed
    for part in re.split(rf"^{GAP}\n", expected, flags=re.MULTILINE):
        _, found, rest = rest.partition(part)
        if part and not found:
            return part
    return None
