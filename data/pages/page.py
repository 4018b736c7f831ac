"""Pages that open without a server: one file, with every text escaped and every picture inside."""

import base64
import hashlib
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

# texts stay texts: the page can be searched and stays small
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def render(template: Path, *, script: Path | None = None, rows: Any = None, **values: Any) -> str:
    """Fill in a template, which extends page.html.j2.

    Args:
        template: what to fill in.
        script: JavaScript of the page; no other runs on it, whatever a transcript holds.
        rows: what the script finds in the element `data`, as JSON.
        values: what the template names.
    """
    code = script.read_text(encoding="utf-8") if script else ""
    page = _environment(template.parent).get_template(template.name)
    text: str = page.render(
        script=Markup(code),
        digest=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        rows=None if rows is None else as_script(rows),
        **values,
    )
    return text


def as_script(value: Any) -> Markup:
    """Return JSON for a script element: no text in it can end the element, or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # half a surrogate pair is no UTF-8, but its escape is JSON
    return Markup(text.replace("<", "\\u003c").encode(errors="backslashreplace").decode())


@cache
def _environment(folder: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def svg_of(figure: Figure) -> str:
    """Return a figure, drawn under STYLE, as an element of a page."""
    with mpl.rc_context(STYLE):
        file = io.StringIO()
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=unsaid)
    text = file.getvalue()
    return text[text.index("<svg") :]
