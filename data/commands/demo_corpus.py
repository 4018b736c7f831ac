"""`python -m data demo-corpus`: synthesize a corpus of spoken numbers with espeak-ng.

The corpus is in English and Mandarin, and has Mozilla Common Voice's folder layout, so that any
reader of Common Voice can read it. This needs the optional extra `whisper-loop[demo]`, and no
network.
"""

import ctypes
import hashlib
import os
import random
import shutil
import tempfile
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from data.errors import InputError

# Common Voice 17 and later.
COLUMNS = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage"
COLUMNS += "\tgender\taccents\tvariant\tlocale\tsegment"
# By locale: espeak-ng's voice, the numbers, and the separator in a sentence.
ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LANGUAGES = {"en": ("en", ENGLISH, " "), "zh-TW": ("cmn", tuple("零一二三四五六七八九"), "")}
MAX_NUMBERS = 5

# espeak-ng's variants, except those that are
# - meant to be odd: whispers, croak, Demonic, robots, echoes, a speed test, an own accent;
# - hard to understand: a classifier not trained on the voice missed 6 % or more;
# - almost another variant's audio (Gene2, Henrique, klatt4, steph3 ...);
# - of type "klatt 6": their noise comes from C's rand(), which the whole process shares.
# No voice of dev or test resembles one of the other splits. Andrea and travis are not in test: a
# model not trained on such voices missed every fifth of their numbers, or more.
VOICES = {
    "train": "Alex,Andrea,Denis,Diogo,Hugo,Mario,Michael,Mr serious,Nguyen,Tweaky,anika,"
    "antonio,aunty,belinda,edward,f1,f2,f4,f5,grandpa,gustave,iven2,iven3,iven4,"
    "john,klatt,klatt3,klatt5,linda,m1,m5,m6,m7,max,michel,paul,quincy,rob,robert,"
    "steph,steph2,travis",
    "dev": "m3,m8,pedro",
    "test": "Andy,Annie,Gene,Jacky,Mike,ed,f3,grandma,iven,m2,m4,pablo,victor",
}
GENDERS = {"male": "male_masculine", "female": "female_feminine"}

# Ranges from which each clip's espeak-ng parameters are drawn. The keys are speak_lib.h's.
PARAMETERS = {
    1: (120, 170),  # espeakRATE, words per minute
    3: (35, 65),  # espeakPITCH, percent
    4: (30, 70),  # espeakRANGE, percent
    7: (3, 3),  # espeakWORDGAP, 10 ms
}
# Maximum factor by which a training clip is stretched or compressed, as by a longer or a shorter
# vocal tract (vocal tract length perturbation): 42 voices are few to generalize from.
STRETCH = 0.15
SYNCHRONOUS, DONT_EXIT, CHARS_UTF8 = 2, 0x8000, 1  # also speak_lib.h's
SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
MAX_DATA_PATH_BYTES = 140  # of 160, to which espeak-ng may add "/espeak-ng-data"
# VARIABLE, because only then does the header tell a decoder which samples are padding.
MP3 = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.5}
MAX_QUEUED_CLIPS = 64  # 6 MB: espeak-ng is several times as fast as the MP3 encoder


class _Clip(NamedTuple):
    locale: str
    split: str
    name: str
    variant: str
    numbers: list[str]
    settings: dict[int, int]
    stretch: float = 1.0  # factor of time and wavelengths


class _Synthesizer:
    """An initialized copy of espeak-ng's library; not thread-safe."""

    def __init__(self, loader: Any, scratch: Path, seed: int) -> None:
        # Flutter and gain keep their state while the library is loaded, so a text never sounds the
        # same twice. A copy under a new name is loaded with a fresh state.
        self._library = ctypes.CDLL(str(shutil.copy(loader.get_library_path(), scratch)))
        self._data = Path(loader.get_data_path())
        if len(os.fsencode(self._data)) > MAX_DATA_PATH_BYTES:
            (scratch / "data").symlink_to(self._data, target_is_directory=True)
            self._data = scratch / "data"
        data = os.fsencode(self._data)
        self.rate_hz: int = self._library.espeak_Initialize(SYNCHRONOUS, 0, data, DONT_EXIT)
        if self.rate_hz <= 0:
            raise InputError(
                f"espeak-ng cannot load its data in {self._data}: set a shorter TMPDIR"
            )
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._pieces: list[bytes] = []
        self._callback = SYNTH_CALLBACK(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: int, count: int, _events: int) -> int:
        if count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    def synthesize(self, clip: _Clip) -> NDArray[np.int16]:
        """Return the clip's audio, mono."""
        self._pieces.clear()
        voice = f"{LANGUAGES[clip.locale][0]}+{clip.variant}"
        text = " ".join(clip.numbers).encode()
        where = (ctypes.c_size_t(len(text) + 1), 0, 0, 0)  # all of it, with its final zero
        status = self._library.espeak_SetVoiceByName(voice.encode())
        for parameter, value in clip.settings.items():
            status = status or self._library.espeak_SetParameter(parameter, value, 0)
        status = status or self._library.espeak_Synth(text, *where, CHARS_UTF8, None, None)
        if status or not self._pieces:
            raise RuntimeError(f"espeak-ng's voice {voice} produced no audio (status {status})")
        audio = np.frombuffer(b"".join(self._pieces), dtype=np.int16)
        if clip.stretch == 1:
            return audio
        positions = np.arange(int(len(audio) * clip.stretch)) / clip.stretch
        return np.interp(positions, np.arange(len(audio)), audio).astype(np.int16)

    def gender(self, variant: str) -> str:
        """Return the gender in a variant's file, in Common Voice's words; empty if not given."""
        # Raises for a missing file; espeak-ng would use the plain voice for an unknown variant.
        lines = (self._data / "voices" / "!v" / variant).read_text("latin-1").splitlines()
        genders = [line.split()[1].lower() for line in lines if line.startswith("gender ")]
        return GENDERS[genders[0]] if genders else ""


def make_corpus(
    folder: Path,
    *,
    clips: int = 3000,
    dev_clips: int = 30,
    test_clips: int = 182,
    seed: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Write FOLDER/en and FOLDER/zh-TW, both or neither; the same seed gives the same bytes.

    Raises:
        InputError: FOLDER exists, a count is below 2 (one per language), or espeak-ng is missing.
    """
    counts = {"train": clips, "dev": dev_clips, "test": test_clips}
    if min(counts.values()) < len(LANGUAGES):
        raise InputError(f"{counts} clips are too few: each split needs 2, one for each language")
    if folder.exists():
        raise InputError(f"{folder} exists already: remove it, or name another folder")
    try:
        import espeakng_loader  # here: it is optional
    except ImportError as error:
        needed = "espeakng-loader: pip install 'whisper-loop[demo]'"
        raise InputError(f"the demo corpus needs {needed} (it is GPL)") from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as staging,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
    ):
        synthesizer = _Synthesizer(espeakng_loader, Path(scratch), seed)
        plan = [clip for locale in LANGUAGES for clip in _plan(locale, counts, seed)]
        shown = track(plan, "espeak-ng", console=Console(stderr=True), disable=not progress)
        _write(Path(staging) / "corpus", shown, synthesizer)
        (Path(staging) / "corpus").rename(folder)
    return [folder / locale for locale in LANGUAGES]


def _plan(locale: str, counts: dict[str, int], seed: int) -> Iterator[_Clip]:
    """Draw texts and settings; voices alternate, so that each has equally many clips."""
    for split, count in counts.items():
        rng = random.Random(f"{seed}/{locale}/{split}")
        variants = VOICES[split].split(",")
        for index in range(count // len(LANGUAGES)):
            numbers = rng.choices(LANGUAGES[locale][1], k=rng.randint(1, MAX_NUMBERS))
            settings = {key: rng.randint(*ends) for key, ends in PARAMETERS.items()}
            name = f"espeak_{locale}_{split}_{index:06d}.mp3"
            variant = variants[index % len(variants)]
            stretch = rng.uniform(1 - STRETCH, 1 + STRETCH) if split == "train" else 1.0
            yield _Clip(locale, split, name, variant, numbers, settings, stretch)


def _write(root: Path, clips: Iterable[_Clip], synthesizer: _Synthesizer) -> None:
    for locale in LANGUAGES:
        (root / locale / "clips").mkdir(parents=True)
    tables: defaultdict[Path, list[str]] = defaultdict(lambda: [COLUMNS])
    tables |= {root / locale / "clip_durations.tsv": ["clip\tduration[ms]"] for locale in LANGUAGES}
    queue: deque[Future[None]] = deque()
    # Threads suffice: soundfile releases the GIL while it encodes.
    with ThreadPoolExecutor(os.cpu_count()) as encoders:
        for clip in clips:
            folder = root / clip.locale
            path = folder / "clips" / clip.name
            audio = synthesizer.synthesize(clip)
            queue.append(encoders.submit(soundfile.write, path, audio, synthesizer.rate_hz, **MP3))
            if len(queue) > MAX_QUEUED_CLIPS:
                queue.popleft().result()
            for table in (clip.split, "validated"):
                tables[folder / f"{table}.tsv"].append(_row(clip, synthesizer.gender(clip.variant)))
            milliseconds = round(1000 * len(audio) / synthesizer.rate_hz)
            tables[folder / "clip_durations.tsv"].append(f"{clip.name}\t{milliseconds}")
        while queue:
            queue.popleft().result()
    for path, rows in tables.items():
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _row(clip: _Clip, gender: str) -> str:
    voice = "espeak-" + clip.variant.replace(" ", "-")
    sentence = LANGUAGES[clip.locale][2].join(clip.numbers)
    digest = hashlib.sha256(sentence.encode()).hexdigest()
    fields = [voice, clip.name, digest, sentence, "", "2", "0", "", gender, "", "", clip.locale, ""]
    return "\t".join(fields)
