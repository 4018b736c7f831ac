"""Imports and objects that every run needs, made once in the process that runs are forked from.

Runs of the tests are short: of 1.0 s of processor time for one update, this is 0.3 s.
"""

# ruff: noqa: E402  # the collector is off before all other imports

import gc
from pathlib import Path

gc.disable()  # a fifth of the processor time of the imports

from matplotlib.figure import Figure
from torch.utils import tensorboard  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import trainer.main
from data.pages.page import _environment
from trainer.config import parse
from trainer.publish.model_card import _template

parse([])  # tyro's modules
get_checkpoint_conversion_mapping("whisper")  # compiles a thousand regular expressions
Figure().savefig("/dev/null", format="png")  # reads fonts
_template()  # jinja compiles templates
for page in ("trainer/report/report.html.j2", "eval/report/evaluation.html.j2"):
    template = Path(trainer.main.__file__).parents[1] / page
    _environment(template.parent).get_template(template.name)
gc.collect()
gc.freeze()  # a collection in a run need not look at what was imported
gc.enable()
