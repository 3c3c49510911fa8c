#!/usr/bin/env python3
"""Verifies trials with a trained encoder: embeddings, scores, figures.

    python speaker_verification_cosine.py hparams/verification_resnet.yaml \
        --data_folder=/data/VoxCeleb

Every utterance of all trial lists is embedded once, whole. Written into the
output folder: results.json, a score file for each list and scoring, and the
DET plot; a table goes to the screen.
"""

import json
import logging
import pathlib
import sys

import pandas as pd
import speechbrain as sb
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from voxceleb_prepare import prepare_voxceleb

from speechbrain_ext.dataio.manifests import read_manifest, replacing
from speechbrain_ext.dataio.score_files import write_scores
from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.inference.embedding import embed_utterances
from speechbrain_ext.processing.scoring import (
    adaptive_s_norm,
    cosine_scores,
    speaker_means,
)
from speechbrain_ext.utils.metrics import EER, minDCF
from speechbrain_ext.utils.plots import det_plot
from speechbrain_ext.utils.recipe import load_recipe

logger = get_logger(__name__)

# What this script reads of a YAML; a key that nothing uses is an error
KEYS = (
    *("seed", "output_folder", "save_folder", "data_folder", "trial_lists"),
    *("max_unreadable", "skip_prep", "pretrained_folder", "cohort_manifest"),
    *("scorings", "top_n", "p_targets", "batch_seconds", "num_workers"),
    "block_size",
)

# Each scoring: its words, whether the training mean is subtracted, and
# whether a cohort normalises (all of it, or each side's nearest)
SCORINGS = {
    "cosine": ("cosine", False, None),
    "cosine_mean": ("cosine, mean subtracted", True, None),
    "snorm": ("s-norm", False, "all"),
    "snorm_mean": ("s-norm, mean subtracted", True, "all"),
    "asnorm": ("AS-norm", False, "nearest"),
    "asnorm_mean": ("AS-norm, mean subtracted", True, "nearest"),
}


def prepare(hparams):
    """Manifests and trial lists, checked before anything is embedded."""
    unknown = sorted(set(hparams["scorings"]) - set(SCORINGS))
    if unknown or not hparams["scorings"]:
        raise ValueError(
            f"`scorings` must be of {sorted(SCORINGS)}, got {unknown}."
        )
    normalises = any(kind != "cosine" for kind in hparams["scorings"])
    folder = pathlib.Path(hparams["pretrained_folder"])
    if not (folder / "hyperparams.yaml").is_file():
        raise ValueError(
            f"`pretrained_folder` must hold a hyperparams.yaml, but {folder} "
            "does not; train first, or give --pretrained_folder."
        )
    # without a cohort from this corpus its training files need not be there
    test_only = hparams["cohort_manifest"] is not None or not normalises
    run_on_main(
        prepare_voxceleb,
        kwargs={
            "data_folder": hparams["data_folder"],
            "save_folder": hparams["save_folder"],
            "trial_lists": hparams["trial_lists"],
            "max_unreadable": hparams["max_unreadable"],
            "seed": hparams["seed"],
            "test_only": test_only,
            "skip_prep": hparams["skip_prep"],
        },
    )


def score(kind, trials, test, cohort, hparams):
    """The scores of one list by one scoring.

    Arguments
    ---------
    kind : str
        A key of SCORINGS.
    trials : tuple of torch.Tensor
        Row numbers of enrolment and test, each of shape [trials].
    test : torch.Tensor
        Embeddings of the lists' utterances, [utterances, embedding].
    cohort : tuple
        Embeddings [utterances, embedding] and speakers of the cohort, or
        None.
    hparams : dict
        ``top_n`` and ``block_size``.

    Returns
    -------
    torch.Tensor
        Shape [trials].
    """
    _, subtract, norm = SCORINGS[kind]
    offset = cohort[0].mean(dim=0) if subtract else 0.0
    test = test - offset
    scores = cosine_scores(test, *trials)
    if norm is None:
        return scores
    means, _ = speaker_means(cohort[0] - offset, cohort[1])
    top_n = hparams["top_n"] if norm == "nearest" else None
    return adaptive_s_norm(
        scores,
        *trials,
        test,
        means,
        top_n=top_n,
        block_size=hparams["block_size"],
    )


def figures(scores, target, p_targets):
    """EER in percent and minDCF at each prior."""
    positive, negative = scores[target], scores[~target]
    eer, threshold = EER(positive, negative)
    found = {"EER %": 100 * eer, "EER threshold": threshold}
    for p_target in p_targets:
        value, _ = minDCF(positive, negative, p_target=p_target)
        found[f"minDCF {p_target}"] = value
    return found


def table(results):
    """The figures of all lists and scorings as lines of text."""
    rows = pd.DataFrame(results).drop(columns=["scores", "EER threshold"])
    formats = {"EER %": "{:.2f}".format}
    for column in rows.filter(like="minDCF"):
        formats[column] = "{:.3f}".format
    return rows.to_string(index=False, formatters=formats)


def main(argv):
    """Verifies by the command line and returns the results."""
    # on the screen until the output folder exists, which has a log of its own
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(message)s")
    recipe, run_opts, overrides = sb.parse_arguments(argv)
    try:
        hparams, text = load_recipe(recipe, overrides, KEYS)
        prepare(hparams)
        output_folder = pathlib.Path(hparams["output_folder"])
        sb.create_experiment_directory(str(output_folder))
        with replacing(output_folder / "hyperparams.yaml") as file:
            file.write(text)
        results, curves = verify(hparams, run_opts, output_folder)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    det_plot(curves, output_folder / "det.png")
    with replacing(output_folder / "results.json") as file:
        json.dump(results, file, indent=2)
    print(table(results))
    logger.info(f"Scores, results.json and det.png are in {output_folder}.")
    return results


def verify(hparams, run_opts, output_folder):
    """Embeds, scores and measures all lists."""
    lists = trial_paths(hparams)
    encoder = EncoderClassifier.from_hparams(
        source=hparams["pretrained_folder"], run_opts=run_opts
    )
    save_folder = pathlib.Path(hparams["save_folder"])
    options = {
        "batch_seconds": hparams["batch_seconds"],
        "num_workers": hparams["num_workers"],
        "progressbar": not encoder.noprogressbar,
    }
    manifest = read_manifest(save_folder / "test.csv")
    logger.info(f"Embedding {len(manifest)} utterances of the trial lists.")
    test = embed_utterances(encoder, manifest, **options)
    cohort = None
    if any(kind != "cosine" for kind in hparams["scorings"]):
        path = hparams["cohort_manifest"] or save_folder / "train.csv"
        training = read_manifest(path)
        logger.info(f"Embedding {len(training)} utterances of the cohort.")
        embedded = embed_utterances(encoder, training, **options)
        cohort = (embedded, training["spk_id"].tolist())
    rows = pd.Series(range(len(manifest)), index=manifest["ID"])
    results, curves = [], {}
    for path in lists:
        trials = read_trials(path)
        numbers = tuple(
            torch.from_numpy(rows[trials[side]].to_numpy(copy=True))
            for side in ("enrol", "test")
        )
        target = torch.from_numpy(trials["target"].to_numpy(dtype=bool).copy())
        for kind in hparams["scorings"]:
            scores = score(kind, numbers, test, cohort, hparams)
            written = output_folder / f"scores_{path.stem}_{kind}.txt"
            write_scores(
                written, trials["enrol"], trials["test"], scores, target
            )
            results.append(
                {
                    "trials": path.stem,
                    "scoring": SCORINGS[kind][0],
                    **figures(scores, target, hparams["p_targets"]),
                    "scores": written.name,
                }
            )
            if kind in ("cosine", "asnorm"):
                label = f"{path.stem}, {SCORINGS[kind][0]}"
                curves[label] = (scores[target], scores[~target])
    return results, curves


def trial_paths(hparams):
    """The trial lists' files, as the preparation took them."""
    prepared = json.loads(
        pathlib.Path(hparams["save_folder"], "prepare.json").read_text()
    )
    if not prepared["trial_lists"]:
        raise ValueError(
            f"{hparams['data_folder']} has no trial lists (veri_*.txt, "
            "list_test_*.txt); name them in `trial_lists`."
        )
    return [pathlib.Path(path) for path in prepared["trial_lists"]]


if __name__ == "__main__":
    main(sys.argv[1:])
