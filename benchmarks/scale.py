"""What large corpora cost at measured rates, for docs/scaling.md.

Everything is proportional to the number of utterances, of hours or of classes,
but for the memory of a process that has only imported its modules.
"""

UTTERANCE = 7.8  # seconds, the mean of VoxCeleb1 and 2
CROP_RATE, BYTES = 16000, 2  # of a second of speech, of a sample
EMBEDDING = 4 * 256  # bytes
CORPORA = {  # hours and speakers
    "1,000 hours, 3,000 speakers": (1e3, 3e3),
    "100,000 hours, 300,000 speakers": (1e5, 3e5),
    "100,000 hours, a million speakers": (1e5, 1e6),
}
STEPS = ((60, "s"), (60, "min"), (24, "h"), (365, "days"), (None, "years"))
HEAD = "sharded SphereFace2, 1,000,000 classes, 1: "


def duration(seconds):
    """Seconds in the unit that suits them."""
    for count, unit in STEPS:
        if count is None or seconds < count:
            return f"{seconds:.{0 if seconds >= 10 else 1}f} {unit}"
        seconds /= count


def size(count):
    """Bytes in the unit that suits them."""
    for unit in ("MB", "GB", "TB"):
        count /= 1e3 if unit != "MB" else 1e6
        if count < 1000 or unit == "TB":
            return f"{count:.{0 if count >= 10 else 1}f} {unit}"


def costs(of, hours, speakers):
    """What a corpus costs: {what: text}, and its seconds and bytes.

    ``of(record, row)`` is a measured value. The rates are those of two cores.
    """
    utterances = 3600 * hours / UTTERANCE
    rows, classes = utterances / 1e6, speakers / 1e6  # in millions
    start, million = "start to first step", "1,000,000 rows: "
    peak = of("training", f"{start}: peak memory")
    start_row = of("training", million + start) - of("training", start)
    peak_row = of("training", f"{million}peak memory") - peak
    crops = of("data", "plain crops from files, 1 workers")
    step = 1e-3 * of("distributed", f"{HEAD}step") * classes
    seconds = {
        "convert m4a to wav": utterances / of("data", "m4a converted"),
        "prepare the manifests": utterances
        / of("data", "small files: prepared"),
        "start to first step": of("training", start) + rows * start_row,
        "read one crop of each utterance, one worker": utterances / crops,
        "encoder and all else, one crop of each utterance": utterances
        / of("training", "the recipe"),
        "head, the same crops in batches of 64": utterances / 64 * step,
    }
    head = 1e6 * of("distributed", f"{HEAD}head") * classes
    memory = {
        "memory of a process with the manifest": 1e6 * (peak + rows * peak_row),
        "memory of the head and its optimizer, one process": head,
    }
    disk = {
        "wav files on disk": 3600 * hours * CROP_RATE * BYTES,
        "embeddings on disk": utterances * EMBEDDING,
    }
    return seconds, memory, disk


def scaling(of):
    """The lines of the table, [(what, a text for each corpus)], and the walls.

    The wall of a corpus is what takes longest in an epoch, and what takes
    most memory.
    """
    found = {name: costs(of, *corpus) for name, corpus in CORPORA.items()}
    first = next(iter(found.values()))
    lines = [
        (what, [shown(one[kind][what]) for one in found.values()])
        for kind, shown in enumerate((duration, size, size))
        for what in first[kind]
    ]
    walls = []
    for name, (seconds, memory, _) in found.items():
        slowest = max(list(seconds)[3:], key=seconds.get)
        largest = max(memory, key=memory.get)
        walls.append(
            (name, slowest, duration(seconds[slowest]))
            + (largest, size(memory[largest]))
        )
    return lines, walls
