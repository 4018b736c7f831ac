"""Pages that open without a server: one file, with every text escaped and every picture inside."""

import io
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

# texts stay texts: the page can be searched and stays small
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def render(template: Path, **values: Any) -> str:
    """Fill in a template, which extends page.html.j2."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
    )
    return environment.get_template(template.name).render(**values)


def svg_of(figure: Figure) -> str:
    """Return a figure, drawn under STYLE, as an element of a page."""
    with mpl.rc_context(STYLE):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
