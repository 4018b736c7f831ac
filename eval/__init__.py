"""Load a Whisper model, transcribe audio with it, and score the transcripts.

    config                the options of an evaluation
    whisper               load a checkpoint; an encoder for audio of any length up to 30 s
    silence_states        encoder states of silence, which short audio attends to
    half_precision        a copy of the model in bf16 or fp16
    device                precision, GPU settings, out-of-memory errors
    generate              a Batch → hypotheses
    greedy                greedy decoding of a batch, a CUDA graph a token
    static_cache          keys, values and token ids of a batch that is decoded greedily
    generation_options    options of transformers' generate(), and when it is used
    batch_size            which clips are decoded together, and how many fit in memory
    batch_splitter        smaller batches after an out-of-memory error
    fallback              when a clip is decoded again
    segments              timestamp tokens → segments with start and end
    subset                a stratified part of a split
    evaluate              utterances → Scores, the same on every process
    reference_loss        negative log likelihood of the references
    faster_whisper_model  load, decode and score a model that CTranslate2 converted
    main_process          wait for the main process without a collective
    metrics/              WER, CER, normalization, confidence intervals, comparison of two models
    probes/               hallucination, forgetting, output on silence and noise
    report/               report.html of an evaluation, and its tables on the console
    transcribe/           `python -m eval transcribe` and `try`: text and subtitles of any audio
    label_errors/         `python -m eval label-errors`: transcripts that are probably wrong

Edits and reference lengths are summed over clips and processes, and divided once. This package does
not import trainer/.
"""

import data as _data  # noqa: F401 - makes torchaudio importable before transformers asks for it
