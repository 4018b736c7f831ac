"""From a config to a trained model.

The modules, in the order in which a run uses them:

    config            a recipe and arguments → Config
    main              builds everything in order, and trains
    run_dir           the run's folder, and its corpus, frozen at the first start
    train_loader      training batches: from the frozen corpus, or from a stream
    model             loss of each target token, dropout, frozen parts
    lora              adapters beside frozen weights
    optimizer         AdamW and its parameter groups; the learning rate of each update
    out_of_memory     forward passes that do not fit: found before training, and cut smaller
    run               everything that the loop uses
    loop              update, record, evaluate, save: when each is due
    step              one update
    state             progress: the same on every process, saved as JSON
    validation        evaluations: before training, when due, and of the best model at the end
    best_model        which of two models is better
    heartbeat         between forward passes: signals are handled, and the watchdog's timer is reset
    nonfinite         updates whose loss or gradient was not finite
    recovery          what a run does after an error
    resume            continue from a checkpoint
    half_precision/   forward passes in bf16 and fp16, with weights that are cast once an update
    checkpoint/       copied in memory, written beside training; complete or absent; rotated
    distributed/      devices, DDP and FSDP2 (engine), sums over processes, the shared scan
    process/          signals, the watchdog, the run's lock, status.json
    metrics/          throughput, FLOPs, the console, metrics.jsonl, trackers, the profiler
    plan/             what a run will take: updates, time, memory and disk
    report/           report.html and plots of a run
    publish/          the exported model, its card, and uploads to the Hub
    commands/         `python -m trainer plan`, `find-batch-size`, `doctor`, `tiny-model`,
                      `publish`, `export`

loop and step do not depend on whether one process, DDP or FSDP2 trains: distributed/engine does.
"""

import os

# torch reads this when it first allocates, and asks Linux for huge pages: 3 to 9 % on a CPU
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import data as _data  # noqa: F401 - makes torchaudio importable before transformers asks for it
