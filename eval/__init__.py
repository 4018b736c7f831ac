"""From a model and batches to scores a person can trust.

    whisper     a name or folder   → a Whisper that takes short audio, and its tokenizer
    silence     a Whisper          → the states of silence that short audio's attention rests on
    decode      a Batch            → texts; what is decoded again: fallback
    normalize   texts              → what is compared, under a name that stands beside every figure
    units       a text             → its words, characters, or both
    errors      text pairs         → ErrorCounts, which add up
    script      Chinese texts      → the same in one script; who wrote the other one
    hypothesis  an utterance heard → its counts, once, for all figures
    groups      many of them       → figures of a language, with intervals (bootstrap)
    evaluate    utterances         → Scores, the same on every process
    ct2         the same           → the same, of a model that CTranslate2 converted
    likelihood  the same           → what references cost the model
    meters      what was heard     → signs of trouble; of silence and noise too (noise)
    forgetting  another corpus     → what the model unlearns; all that is beside errors: beside
    page        its files          → report.html (figures, breakdown, alignment, sound)
    transcribe  any audio          → text and subtitles (sources, scribe, segments, subtitles)
    compare     two evaluations    → whether B is better, in pairs
    store       the main process   → its decision, on every process, without a collective

Edits and lengths are summed over clips and processes, and divided once. This package knows nothing
of training.
"""

import data as _data  # noqa: F401 - makes torchaudio importable before transformers asks for it
