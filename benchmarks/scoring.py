"""Verification at the size of VoxCeleb1-H: time, memory, and intervals.

    python benchmarks/scoring.py --json benchmarks/records/scoring.json

The embeddings are random: 550,894 trials among 137,924 utterances of 1,190
speakers, a cohort of 5,994, 256 dimensions. Timed is the whole way from the
files on disk to written scores by cosine, s-norm and AS-norm (top 300), with
EER and minDCF, in a separate process. SpeechBrain's loop over trials
(speaker_verification_cosine.py) and its metrics, and WeSpeaker's loops
(score.py, with scikit-learn if it is installed, and score_norm.py) are
rewritten here. They are timed on the slices in the table, by processor time,
which depends less on other programs. The times are extrapolated: loops by the
number of trials, SpeechBrain's metrics by its square, because they compare
every score with every threshold. Finally the bootstrap: its time, and how
often its 95 % interval contains the true EER.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import torch
from record import finish, parser, print_header, print_row, row
from speechbrain.utils import metric_stats

from speechbrain_ext.dataio.score_files import write_scores
from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.processing.scoring import adaptive_s_norm, cosine_scores
from speechbrain_ext.utils.bootstrap import SpeakerBootstrap, interval
from speechbrain_ext.utils.error_curve import ErrorCurve

TRIALS, UTTERANCES, SPEAKERS = 550_894, 137_924, 1_190
COHORT, SIZE, TOP_N = 5_994, 256, 300
SLICE = 40  # trials of SpeechBrain's loop
METRIC_SLICE = 3_000  # trials of SpeechBrain's metrics
LOOP_SLICE = 20_000  # trials of WeSpeaker's loop
SORT_SLICE = 4_000  # utterances of WeSpeaker's sorting


def make_files(folder, scale):
    """Writes embeddings, IDs, a cohort and a trial list to disk."""
    rng = np.random.default_rng(0)
    number, trials = UTTERANCES // scale, TRIALS // scale
    speaker = np.sort(rng.integers(SPEAKERS, size=number))
    voices = rng.normal(size=(SPEAKERS, SIZE)).astype(np.float32)
    noise = rng.standard_normal((number, SIZE), dtype=np.float32)
    np.save(folder / "embeddings.npy", voices[speaker] + 1.5 * noise)
    cohort = rng.standard_normal((COHORT, SIZE), dtype=np.float32)
    np.save(folder / "cohort.npy", cohort)
    ids = [f"id{s:05}/v{i:07}/00001" for i, s in enumerate(speaker)]
    (folder / "ids.txt").write_text("\n".join(ids))
    # every utterance is in a trial; targets are drawn from a speaker's rows
    enrol = np.resize(rng.permutation(number), trials)
    test = rng.integers(number, size=trials)
    first = np.searchsorted(speaker, np.arange(SPEAKERS))
    count = np.bincount(speaker, minlength=SPEAKERS)
    own = speaker[enrol]
    within = first[own] + rng.integers(2**40, size=trials) % count[own]
    test = np.where(np.arange(trials) % 2, within, test)
    target = own == speaker[test]
    with open(folder / "trials.txt", "w") as file:
        for t, a, b in zip(target, enrol, test, strict=True):
            file.write(f"{int(t)} {ids[a]}.wav {ids[b]}.wav\n")


def verify(folder):
    """Computes all scores and metrics, from files to files."""
    started, processor = time.perf_counter(), time.process_time()
    embeddings = torch.from_numpy(np.load(folder / "embeddings.npy"))
    cohort = torch.from_numpy(np.load(folder / "cohort.npy"))
    ids = (folder / "ids.txt").read_text().split("\n")
    trials = read_trials(folder / "trials.txt")
    rows = pd.Series(range(len(ids)), index=ids)
    numbers = [
        torch.from_numpy(rows[trials[side]].to_numpy(copy=True))
        for side in ("enrol", "test")
    ]
    target = trials["target"].to_numpy(dtype=bool, copy=True)
    cosine = cosine_scores(embeddings, *numbers)
    names = trials["enrol"], trials["test"]
    write_scores(folder / "cosine.txt", *names, cosine, target)
    found = {"cosine seconds": time.process_time() - processor}
    given = cosine, *numbers, embeddings, cohort
    for name, top_n in (("snorm", None), ("asnorm", TOP_N)):
        scores = adaptive_s_norm(*given, top_n)
        write_scores(folder / f"{name}.txt", *names, scores, target)
        measured(found, name, scores, target)
    measured(found, "cosine", cosine, target)
    found["seconds"] = time.perf_counter() - started
    found["CPU seconds"] = time.process_time() - processor
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found["GiB"] = memory
    again = adaptive_s_norm(*given, TOP_N)
    found["same bytes"] = bool((again == scores).all())
    block = adaptive_s_norm(*given, TOP_N, block_size=700)
    found["block difference"] = float((block - scores).abs().max())
    return found


def measured(found, name, scores, target):
    """Adds EER and minDCF of a scoring to ``found``."""
    scores = scores.numpy()
    curve = ErrorCurve.from_scores(scores[target], scores[~target])
    found[f"{name} EER"] = curve.eer()[0]
    for p_target in (0.01, 0.05):
        found[f"{name} minDCF {p_target}"] = curve.min_dcf(p_target=p_target)[0]


def seconds(function, clock=time.perf_counter):
    """Seconds that a call takes."""
    started = clock()
    function()
    return clock() - started


def processor_seconds(function):
    """Processor time of a call, which depends less on other programs."""
    return seconds(function, time.process_time)


def speechbrain_loop(folder):
    """Seconds per trial of SpeechBrain's script with score normalisation."""
    embeddings = torch.from_numpy(np.load(folder / "embeddings.npy")[:1000])
    cohort = torch.from_numpy(np.load(folder / "cohort.npy")).unsqueeze(1)
    similarity = torch.nn.CosineSimilarity(dim=-1, eps=1e-6)

    def run():
        for i in range(SLICE):
            enrol, test = embeddings[[i]], embeddings[[-1 - i]]
            stats = []
            for side in (enrol, test):
                repeated = side.repeat(cohort.shape[0], 1, 1)
                scores = similarity(repeated, cohort)
                top = torch.topk(scores, k=TOP_N, dim=0)[0]
                stats.append((torch.mean(top, dim=0), torch.std(top, dim=0)))
            score = similarity(enrol.unsqueeze(1), test.unsqueeze(1))[0]
            sum((score - mean) / std for mean, std in stats).item()

    return processor_seconds(run) / SLICE


def speechbrain_metrics():
    """Seconds of SpeechBrain's EER and minDCF on a slice."""
    rng = torch.Generator().manual_seed(0)
    positive = torch.randn(METRIC_SLICE // 2, generator=rng) + 2
    negative = torch.randn(METRIC_SLICE // 2, generator=rng)

    def run():
        metric_stats.EER(positive, negative)
        metric_stats.minDCF(positive, negative)

    return processor_seconds(run)


def wespeaker_loops(folder):
    """Seconds of WeSpeaker's loops: the cosine (None without scikit-learn)
    and the normalisation per trial, and the sorting per utterance."""
    try:
        from sklearn.metrics.pairwise import cosine_similarity
    except ImportError:
        cosine_similarity = None
    embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
    embeddings = np.array(embeddings[:LOOP_SLICE])
    cohort = np.load(folder / "cohort.npy")
    lines = (folder / "trials.txt").read_text().split("\n")[:LOOP_SLICE]
    by_name = dict(enumerate(embeddings))

    def cosines():
        with open(folder / "loop.txt", "w") as file:
            for i, line in enumerate(lines):
                words = line.strip().split()
                one = by_name[i % len(by_name)].reshape(1, -1)
                other = by_name[7 * i % len(by_name)].reshape(1, -1)
                score = cosine_similarity(one, other)[0][0]
                file.write("{} {} {:.5f}\n".format(*words[1:], score))

    def sorting():
        part = embeddings[:SORT_SLICE]
        unit = part / np.sqrt(np.sum(part**2, axis=1, keepdims=True))
        other = cohort / np.sqrt(np.sum(cohort**2, axis=1, keepdims=True))
        scores = np.sort(np.matmul(unit, other.T), axis=1)[:, ::-1]
        scores = scores[:, :TOP_N]
        return np.mean(scores, axis=1), np.std(scores, axis=1)

    def normalising():
        mean, std = np.zeros(LOOP_SLICE), np.ones(LOOP_SLICE)
        with open(folder / "loop.txt", "w") as file:
            for i, line in enumerate(lines):
                words = line.strip().split()
                score = 0.5 * ((0.3 - mean[i]) / std[i] + 0.3 / std[-i])
                norms = [
                    np.linalg.norm(by_name[j % len(by_name)])
                    for j in (i, 7 * i)
                ]
                values = (score, *norms, mean[i], mean[-i])
                file.write(
                    "{} {} {:.5f} {:.4f} {:.4f} {:.4f} {:.4f}\n".format(
                        *words[1:], *values
                    )
                )

    return (
        processor_seconds(cosines) / len(lines) if cosine_similarity else None,
        processor_seconds(normalising) / len(lines),
        processor_seconds(sorting) / SORT_SLICE,
    )


def ten_million(number):
    """Seconds of EER and minDCF on ``number`` trials."""
    rng = np.random.default_rng(0)
    positive, negative = (
        rng.normal(2, 1, number // 2),
        rng.normal(0, 1, number // 2),
    )

    def run():
        curve = ErrorCurve.from_scores(positive, negative)
        curve.eer()
        curve.min_dcf()

    return seconds(run)


def bootstrap_seconds(number, replicates):
    """Seconds of a bootstrap of EER and two minDCFs."""
    rng = np.random.default_rng(0)
    enrol, test = rng.integers(1_251, size=(2, number))
    test = np.where(np.arange(number) % 2, enrol, test)
    scores = rng.normal(size=number) + 3.0 * (enrol == test)
    figures = {
        "EER": ErrorCurve.eer,
        "0.01": ErrorCurve.min_dcf,
        "0.05": lambda curve: curve.min_dcf(p_target=0.05),
    }

    def run():
        made = SpeakerBootstrap(enrol == test, enrol, test, replicates)
        made.evaluate(scores, figures)

    return seconds(run)


def simulated(speakers, utterances, trials, rng):
    """Scores of simulated speakers, each with its own within-class spread."""
    voices = rng.normal(size=(speakers, 1, 16))
    spread = 1.2 * np.exp(0.3 * rng.normal(size=(speakers, 1, 1)))
    noise = rng.normal(size=(speakers, utterances, 16))
    embeddings = voices + spread * noise
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    half = trials // 2
    enrol, other = rng.integers(speakers, size=(2, trials))
    other = (enrol + 1 + other % (speakers - 1)) % speakers
    test = np.where(np.arange(trials) < half, enrol, other)
    one, two = rng.integers(utterances, size=(2, trials))
    two = np.where(enrol == test, (one + 1 + two % (utterances - 1)), two)
    pairs = embeddings[enrol, one], embeddings[test, two % utterances]
    return (pairs[0] * pairs[1]).sum(axis=-1), enrol, test


def coverage(runs, speakers, trials):
    """Percent of intervals with the true EER: draws of speakers, of trials."""
    rng = np.random.default_rng(0)
    truth = []
    for _ in range(20):
        scores, enrol, test = simulated(10_000, 2, 200_000, rng)
        curve = ErrorCurve.from_scores(
            scores[enrol == test], scores[enrol != test]
        )
        truth.append(curve.eer()[0])
    truth, held, naive = np.mean(truth), 0, 0
    for run in range(runs):
        rng = np.random.default_rng(1000 + run)
        scores, enrol, test = simulated(speakers, 10, trials, rng)
        target = enrol == test
        made = SpeakerBootstrap(target, enrol, test, 300, seed=run)
        drawn = made.evaluate(scores, {"EER": ErrorCurve.eer})["EER"]
        low, high = interval(drawn)
        held += low <= truth <= high
        drawn = []
        for _ in range(100):
            rows = rng.integers(trials, size=trials)
            picked, kind = scores[rows], target[rows]
            curve = ErrorCurve.from_scores(picked[kind], picked[~kind])
            drawn.append(curve.eer()[0])
        low, high = interval(drawn)
        naive += low <= truth <= high
    return 100 * held / runs, 100 * naive / runs


def main():
    """Prints the table and writes the record."""
    if sys.argv[1:2] == ["--verify"]:
        sys.stdout.write(json.dumps(verify(pathlib.Path(sys.argv[2]))))
        return
    arguments = parser(__doc__, "a twentieth of the size").parse_args()
    print_header()
    scale = 20 if arguments.quick else 1

    def bound(value):
        return None if arguments.quick else value

    record = []

    def add(*values, **options):
        record.append(row(*values, **options))
        print_row(record[-1])

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_files(folder, scale)
        done = subprocess.run(
            [sys.executable, __file__, "--verify", name],
            capture_output=True,
            text=True,
            check=True,
        )
        ours = json.loads(done.stdout)
        add(
            "cosine, s-norm, AS-norm from disk", ours["seconds"], "s", bound(40)
        )
        add("processor time of the cosine alone", ours["cosine seconds"], "s")
        add("processor time of all", ours["CPU seconds"], "s")
        add("peak memory", ours["GiB"], "GiB", bound(3 * 1e9 / 2**30))
        add("AS-norm twice: same bytes", ours["same bytes"], "", 1, True)
        difference = ours["block difference"] * 1e6
        add("AS-norm: other block size", difference, "1e-6", 1)
        trials = TRIALS // scale
        loop = speechbrain_loop(folder)
        part = speechbrain_metrics()
        add(f"SpeechBrain: a trial, of {SLICE}", 1000 * loop, "ms")
        add(f"SpeechBrain: EER, minDCF of {METRIC_SLICE}", part, "s")
        scoring = loop * trials
        metrics = part * (trials / METRIC_SLICE) ** 2
        add("SpeechBrain: scoring, extrapolated", scoring / 3600, "h")
        add("SpeechBrain: metrics, extrapolated", metrics / 3600, "h")
        speed = scoring / ours["CPU seconds"]
        add("times SpeechBrain's scoring", speed, "", bound(100), at_least=True)
        cosine, normalising, sorting = wespeaker_loops(folder)
        if cosine is not None:
            add(f"WeSpeaker: a cosine, of {LOOP_SLICE}", 1e6 * cosine, "us")
            speed = cosine * trials / ours["cosine seconds"]
            add("times WeSpeaker's cosine", speed, "", bound(10), at_least=True)
        add(
            f"WeSpeaker: a normalised line, of {LOOP_SLICE}",
            1e6 * normalising,
            "us",
        )
        add(
            f"WeSpeaker: sorting, of {SORT_SLICE}",
            1e6 * sorting,
            "us/utterance",
        )
        # s-norm and AS-norm sort the utterances of each side separately
        total = 2 * normalising * trials
        total += 4 * sorting * UTTERANCES // scale + (cosine or 0) * trials
        add("WeSpeaker: all, extrapolated", total, "s")
        add("times WeSpeaker, all", total / ours["CPU seconds"], "")
    taken = ten_million(10_000_000 // scale)
    add("EER and minDCF of 10 million trials", taken, "s", bound(10))
    taken = bootstrap_seconds(1_000_000 // scale, 1000)
    add("bootstrap of a million trials, 1000 draws", taken, "s", bound(60))
    for speakers, trials in ((40, 4_000), (200, 10_000)):
        runs = 200 // scale
        held, naive = coverage(runs, speakers, trials)
        words = f"{speakers} speakers, {trials} trials"
        made = row(f"95 % interval holds, {words}", held, "%")
        if not arguments.quick:
            made |= {"bound": [92, 98], "holds": bool(92 <= held <= 98)}
        record.append(made)
        print_row(made)
        add(f"the same drawing trials, {words}", naive, "%")
    finish(record, arguments.json, 0)


if __name__ == "__main__":
    main()
