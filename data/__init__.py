"""From a corpus on disk or on the Hub to padded batches.

The pipeline, one module per stage:

    corpora/                     a layout on disk            -> Utterances (metadata only)
    screening/durations          Utterances                  -> durations, and unreadable files
    screening/filters            Utterances                  -> kept ones, and Drops with a reason
    screening/training_set       the training split          -> the two above, one after another
    manifest, manifest_index     kept ones                   -> manifest.jsonl and its index
    lazy_manifest                manifest.jsonl              -> utterances parsed on access
    sampling/corpus_weights      weights of corpora          -> repetitions per epoch
    sampling/buckets             durations, token counts     -> buckets of similar utterances
    sampling/shape_table, _search  the same                  -> few padded shapes, in their place
    sampling/epoch_plan          (seed, epoch, manifest)     -> updates, as lists of utterances
    sampling/rows                an update                   -> rows and their padded lengths
    sampling/bucketed_sampler    rows                        -> forward passes of one process
    sampling/forward_bounds      a plan                      -> upper bounds of its forward passes
    audio/open_audio             Utterance.audio             -> an open file          } in the
    audio/decode, resample       a file                      -> 16 kHz mono float32   } DataLoader's
    audio/augment                16 kHz mono                 -> augmented waveform    } workers
    batching/speech_dataset      a SampleSpec                -> a decoded Sample      }
    labels                       a transcript                -> token ids             }
    batching/collate             Samples                     -> a padded Batch        }
    log_mel                      waveforms                   -> log-mel features (worker or GPU)
    worker_crashes               DataLoader workers          -> restarted when a decoder crashes
    dataloader                   all of the above, chained

Streaming datasets are trained on window by window (streaming/): stream reads rows from any
position, tar_window writes a window's audio to one tar file, prefetch_windows screens each window,
stream_train_loader yields its forward passes, and window_log records where windows begin, for
resuming.

commands/ holds `python -m data inspect`, `split`, `leakage` and `demo-corpus`; pages/ their HTML.

Sampling looks at metadata only. Audio is decoded after sampling, on demand, and nothing is
precomputed to disk. This package does not depend on models, devices or process groups.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


def _import_torchaudio() -> None:
    """Import torchaudio, replacing its compiled extension where that does not match this torch.

    torchaudio 2.11 links against one CUDA build of torch. With another build its import raises, and
    so does the import of transformers, which imports torchaudio. This project uses only the parts
    of torchaudio that are pure Python.
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
