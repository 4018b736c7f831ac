"""Imports and objects that every run needs, made once in the process that runs are forked from.

Runs of the tests are short: of 1.0 s of processor time for one update, this is 0.3 s.
"""

# ruff: noqa: E402  # the collector is off before all other imports

import gc

gc.disable()  # a fifth of the processor time of the imports

from matplotlib.figure import Figure
from torch.utils import tensorboard  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import trainer.main  # noqa: F401
from trainer.config import parse

parse([])  # tyro's modules
get_checkpoint_conversion_mapping("whisper")  # compiles a thousand regular expressions
Figure().savefig("/dev/null", format="png")  # reads fonts
gc.collect()
gc.freeze()  # a collection in a run need not look at what was imported
gc.enable()
