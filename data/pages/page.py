"""Render self-contained HTML pages: one file, with texts escaped and figures embedded."""

import base64
import hashlib
import io
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib as mpl
from markupsafe import Markup

if TYPE_CHECKING:  # its import takes half a second, a tenth of those of a run
    from matplotlib.figure import Figure

# fonttype none keeps text as text: searchable and small
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def render(template: Path, *, script: Path | None = None, rows: Any = None, **values: Any) -> str:
    """Render a template that extends page.html.j2.

    Args:
        template: path of the template.
        script: path of the page's JavaScript. The page allows no other, whatever is in transcripts.
        rows: data for the script, as JSON in the element `data`.
        values: variables of the template.
    """
    code = script.read_text(encoding="utf-8") if script else ""
    page = _environment(template.parent).get_template(template.name)
    text: str = page.render(
        script=Markup(code),
        digest=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        rows=None if rows is None else json_for_script(rows),
        **values,
    )
    return text


def json_for_script(value: Any) -> Markup:
    """Return JSON that is safe in a script element: no text can end it or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # a lone surrogate is not valid UTF-8, but its escape is valid JSON
    return Markup(text.replace("<", "\\u003c").encode(errors="backslashreplace").decode())


@cache
def _environment(folder: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def to_svg(figure: "Figure") -> str:
    """Return a figure as an SVG element, drawn with STYLE."""
    with mpl.rc_context(STYLE):
        file = io.StringIO()
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=unsaid)
    text = file.getvalue()
    return text[text.index("<svg") :]
