"""From a corpus on disk or on the Hub to padded batches.

The map of the pipeline, one module a stage:

    corpora    a layout on disk           → Utterances (metadata only)
    cues       subtitles                  → what is said from when to when
    scan       Utterances                 → their lengths, and what is broken
    measurements what a scan found        → the next one's cache, written as it goes
    screen     Utterances                 → kept ones, and Drops with a reason each
    selection  the training split         → all of these, one after another
    context    slices of a recording      → what was said before each
    manifest   kept ones                  → manifest.jsonl, frozen for the run's life
    index      manifest.jsonl             → manifest.index.safetensors, mapped by all processes
    lazy       manifest.jsonl             → its utterances, left in the file till they are needed
    mixing     weights of corpora         → how often an epoch hears each utterance
    plan       (seed, epoch, manifest)    → updates: which utterances, in which order
    bounds     a plan                     → upper bounds of its passes, to find the largest quickly
    rows       an update                  → rows: what the encoder hears, padded to what
    buckets    rows                       → forward passes of one process
    archive    a file in a tar            → its bytes                   } in the
    dataset    a dataset's row            → its bytes                   } DataLoader's
    source     a path, or either of these → an open file, bounded       } workers
    audio      one Utterance              → mono float32                }
    resample   any rate                   → 16 kHz                      }
    augment    16 kHz                     → faster, louder, noisier     }
    lines      a draw                     → its clips, as an epoch hears them
    labels     its text                   → token ids                   }
    collate    a pass                     → padded: one Batch           }
    features   waveforms                  → log-mel, there or on a GPU
    workers    those processes            → the same, should a decoder kill one
    loader     all of the above, chained

A dataset that is read while it arrives takes another way to the plan:

    stream     a dataset's shards         → its rows, from any place on
    spool      rows                       → one tar file, for as long as it is needed
    windows    so many rows at a time     → a small corpus, screened (selection)
    windowed   windows                    → the passes of each, one window after another
    places     where windows begin        → stream.jsonl, so that a run can go on

Beside it, for people, `python -m data inspect` (survey, columns, scripts, suspicion, findings,
figures, page), `split` (division) and `leakage`.

Sampling looks at metadata only; audio is decoded after sampling, as it is needed, and nothing is
precomputed to disk. This package knows nothing of models, devices or processes.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


def _import_torchaudio() -> None:
    """Import torchaudio, without its compiled extension where that does not fit this torch.

    torchaudio 2.11 links against one CUDA build of torch. Beside another build its import raises,
    and then so does transformers', which imports it. All that is used of it here is pure Python.
    """
    try:
        importlib.import_module("torchaudio")
        return
    except (OSError, RuntimeError, ImportError):
        for name in [m for m in sys.modules if m.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
    extension: Any = ModuleType("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = False
    extension._IS_ALIGN_AVAILABLE = False
    extension.fail_if_no_align = lambda function: function
    sys.modules["torchaudio._extension"] = extension
    importlib.import_module("torchaudio")


_import_torchaudio()
