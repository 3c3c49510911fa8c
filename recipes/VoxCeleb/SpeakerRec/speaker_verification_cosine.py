#!/usr/bin/env python3
"""Verifies trials with a trained encoder: embeddings, scores, figures.

    python speaker_verification_cosine.py hparams/verification_resnet.yaml \
        --data_folder=/data/VoxCeleb

Every utterance of all trial lists is embedded once, whole, and kept on disk:
another list, or a run that was killed, computes what is missing. Under torchrun
the processes share that work. Written into the output folder: results.json,
report.html, a score file for each list and scoring, the DET plot and
histograms; a table goes to the screen.
"""

import json
import logging
import pathlib
import sys

import numpy as np
import pandas as pd
import speechbrain as sb
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger
from voxceleb_prepare import prepare_voxceleb

from speechbrain_ext.dataio.corpus import corpus_folders
from speechbrain_ext.dataio.enrolment import (
    read_enrolment,
    write_expanded_trials,
)
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.score_files import FORMS, write_scores
from speechbrain_ext.dataio.trials import resolve_trial_lists
from speechbrain_ext.inference.embedding_store import (
    EmbeddingStore,
    model_fingerprint,
    stored_embeddings,
)
from speechbrain_ext.processing.back_end import (
    BackEnd,
    needs_cohort,
    scoring_words,
)
from speechbrain_ext.processing.calibrated import (
    QUALITY,
    calibrate_scoring,
    scores_by_name,
)
from speechbrain_ext.processing.calibration import save_calibrations
from speechbrain_ext.processing.score_matrix import write_score_matrix
from speechbrain_ext.processing.trial_rows import TrialRows
from speechbrain_ext.utils.bootstrap import SpeakerBootstrap
from speechbrain_ext.utils.command_line import parse_command_line
from speechbrain_ext.utils.conditions import (
    condition_tables,
    utterance_conditions,
)
from speechbrain_ext.utils.distributed import (
    fail_together,
    join_processes,
    leave,
    main_first,
    rank,
    world_size,
)
from speechbrain_ext.utils.figures import figure_functions, figures
from speechbrain_ext.utils.files import atomic_write
from speechbrain_ext.utils.plots import det_plot, histogram_plot
from speechbrain_ext.utils.recipe import load_recipe
from speechbrain_ext.utils.report import figures_table, write_report

logger = get_logger(__name__)

# What this script reads of a YAML; a key that nothing uses is an error
KEYS = (
    *("seed", "output_folder", "save_folder", "data_folder", "trial_lists"),
    *("max_unreadable", "skip_prep", "pretrained_folder", "cohort_manifest"),
    *("scorings", "top_n", "p_targets", "batch_seconds", "num_workers"),
    *("block_size", "embeddings_folder", "enrolment", "cohort_by"),
    *("plda_rank", "calibrate", "calibration_trials", "calibration_prior"),
    *("bootstrap", "confidence", "score_forms", "score_matrices"),
    *("calibration_manifest", "conditions"),
)


def check(hparams):
    """Checks what can be known before anything is read."""
    names = [name.removesuffix(QUALITY) for name in hparams["calibrate"]]
    for name in [*hparams["scorings"], *names]:
        scoring_words(name)
    if not hparams["scorings"]:
        raise ValueError("`scorings` must name a scoring, got none.")
    odd = sorted(set(hparams["score_forms"]) - set(FORMS))
    if odd:
        raise ValueError(
            f"`score_forms` must be of {sorted(FORMS)}, got {odd}."
        )
    if hparams["bootstrap"] == 1 or hparams["bootstrap"] < 0:
        raise ValueError(
            "`bootstrap` must be 0 (no intervals) or 2 draws and more, got "
            f"{hparams['bootstrap']}; 1000 is usual."
        )
    if hparams["cohort_by"] not in ("speaker", "utterance"):
        raise ValueError(
            "`cohort_by` must be speaker or utterance, got "
            f"{hparams['cohort_by']!r}."
        )
    if hparams["top_n"] < 2:
        raise ValueError(f"`top_n` must be 2 or more, got {hparams['top_n']}.")
    shares = [hparams["confidence"], hparams["calibration_prior"]]
    for share in [*shares, *hparams["p_targets"]]:
        if not 0 < share < 1:
            raise ValueError(
                "`confidence`, `calibration_prior` and `p_targets` must be in "
                f"(0, 1), got {share}; pass fractions, not percent."
            )
    paths = [hparams["conditions"], hparams["calibration_manifest"]]
    for path in filter(None, [*paths, hparams["cohort_manifest"]]):
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist; check its path.")
    folder = pathlib.Path(hparams["pretrained_folder"])
    if not (folder / "hyperparams.yaml").is_file():
        raise ValueError(
            f"`pretrained_folder` must hold a hyperparams.yaml, but {folder} "
            "does not; train first, or give --pretrained_folder."
        )


def wants_cohort(hparams):
    """Whether the training set is to be embedded."""
    return bool(hparams["calibrate"]) or needs_cohort(hparams["scorings"])


def prepare(hparams):
    """Manifests and trial lists, checked before anything is embedded."""
    lists = hparams["trial_lists"]
    if hparams["enrolment"] is not None:
        lists = expanded_lists(hparams)
    # without a cohort from this corpus its training files need not be there
    test_only = hparams["cohort_manifest"] is not None or not wants_cohort(
        hparams
    )
    prepare_voxceleb(
        data_folder=hparams["data_folder"],
        save_folder=hparams["save_folder"],
        trial_lists=lists,
        max_unreadable=hparams["max_unreadable"],
        seed=hparams["seed"],
        test_only=test_only,
        skip_prep=hparams["skip_prep"],
    )


def named_lists(hparams):
    """The trial lists before any preparation, for enrolment by models."""
    folders = corpus_folders(hparams["data_folder"])
    lists = resolve_trial_lists(hparams["trial_lists"], folders)
    return [pathlib.Path(path) for path in lists]


def expanded_lists(hparams):
    """Lists of the models' utterances, for the preparation to look up."""
    models = read_enrolment(hparams["enrolment"])
    folder = pathlib.Path(hparams["save_folder"]) / "enrolment"
    found = []
    for path in named_lists(hparams):
        folder.mkdir(parents=True, exist_ok=True)
        found.append(str((folder / path.name).absolute()))
        write_expanded_trials(path, models, found[-1])
    return found


def trial_paths(hparams):
    """The trial lists' files, as the preparation took them."""
    if hparams["enrolment"] is not None:
        return named_lists(hparams)
    prepared = json.loads(
        pathlib.Path(hparams["save_folder"], "prepare.json").read_text()
    )
    if not prepared["trial_lists"]:
        raise ValueError(
            f"{hparams['data_folder']} has no trial lists (veri_*.txt, "
            "list_test_*.txt); name them in `trial_lists`."
        )
    return [pathlib.Path(path) for path in prepared["trial_lists"]]


def embed(hparams, run_opts, manifests):
    """Embeddings of some manifests, on the encoder's device."""
    folder = hparams["pretrained_folder"]
    encoder = EncoderClassifier.from_hparams(source=folder, run_opts=run_opts)
    store = EmbeddingStore(
        hparams["embeddings_folder"], model_fingerprint(folder)
    )
    found = []
    for name, manifest in manifests.items():
        logger.info(f"Embedding {len(manifest)} utterances of the {name}.")
        embeddings = stored_embeddings(
            encoder,
            manifest,
            store,
            batch_seconds=hparams["batch_seconds"],
            num_workers=hparams["num_workers"],
            progressbar=not encoder.noprogressbar,
            share=(rank(), world_size()),
            gather=ddp_barrier,
        )
        found.append(embeddings.to(encoder.device))
    return found


def calibrations(hparams, back_end, manifest):
    """A calibration for each scoring asked, fitted on training speakers."""
    found, speakers = {}, None
    if hparams["calibrate"] and hparams["calibration_manifest"] is not None:
        speakers = read_manifest(hparams["calibration_manifest"])["spk_id"]
    for name in hparams["calibrate"]:
        try:
            found[name] = calibrate_scoring(
                name,
                back_end,
                manifest,
                hparams["calibration_trials"],
                hparams["seed"],
                hparams["calibration_prior"],
                speakers,
            )
        except ValueError as error:  # a corpus can be too small for it
            logger.warning(f"{name} is not calibrated: {error}")
    for folder in (hparams["output_folder"], hparams["pretrained_folder"]):
        try:
            if found:
                save_calibrations(f"{folder}/calibration.json", found)
        except OSError as error:
            logger.warning(f"{folder} gets no calibration.json: {error}")
    return found


def bootstrap_of(hparams, trials, numbers, utterances, name):
    """The draws of a list's speakers, or None."""
    if not hparams["bootstrap"]:
        return None
    speakers = np.array(utterances.speakers, dtype=object)
    try:
        return SpeakerBootstrap(
            trials["target"].to_numpy(dtype=bool),
            *(speakers[side].astype(str) for side in numbers),
            replicates=hparams["bootstrap"],
            seed=hparams["seed"],
        )
    except ValueError as error:
        logger.warning(f"{name} gets no intervals: {error}")
        return None


def verify(hparams, output_folder, back_end, fitted, utterances, conditions):
    """Scores and measures all lists; results and the report's sections."""
    results, curves, sections = [], {}, []
    for path in trial_paths(hparams):
        trials, numbers = utterances.trials(path)
        targets = trials["target"].to_numpy(dtype=bool, copy=True)
        bootstrap = bootstrap_of(
            hparams, trials, numbers, utterances, path.name
        )
        parts, main_scores = [], None
        for name, words, scores, ratios in scores_by_name(
            hparams["scorings"],
            fitted,
            back_end,
            utterances.embeddings,
            *numbers,
            utterances.seconds,
        ):
            functions = figure_functions(hparams["p_targets"], ratios)
            row = figures(
                scores, targets, functions, bootstrap, hparams["confidence"]
            )
            written = f"scores_{path.stem}_{name}"
            for form in hparams["score_forms"]:
                write_scores(
                    output_folder
                    / f"{written}.{'txt' if form == 'wespeaker' else form}",
                    *(trials["enrol"], trials["test"], scores, targets, form),
                )
            row["scores"] = f"{written}.txt"
            results.append({"trials": path.stem, "scoring": words, **row})
            pair = scores[targets], scores[~targets]
            if not ratios or name.endswith(QUALITY):
                curves[f"{path.stem}, {words}"] = pair
            picture = output_folder / "histograms" / f"{path.stem}_{name}.png"
            samples = dict(zip(("target", "nontarget"), pair, strict=True))
            histogram_plot(samples, picture, words)
            parts.append(picture)
            if main_scores is None or name == "asnorm":
                main_scores = words, scores
        parts += condition_tables(trials, conditions, *main_scores)
        sections.append((f"{path.stem}: {len(trials)} trials", parts))
        if hparams["score_matrices"]:
            write_matrix(output_folder, path.stem, trials, numbers, utterances)
    return results, curves, sections


def write_matrix(output_folder, name, trials, numbers, utterances):
    """Cosines of every enrolment with every test of a list."""
    sides = {}
    for side, rows in zip(("enrol", "test"), numbers, strict=True):
        names = pd.Series(rows.numpy(), index=trials[side])
        names = names[~names.index.duplicated()]
        sides[side] = utterances.embeddings[names.tolist()]
        with atomic_write(output_folder / f"matrix_{name}_{side}.txt") as file:
            file.writelines(f"{known}\n" for known in names.index)
    write_score_matrix(output_folder / f"matrix_{name}_cosine.npy", **sides)


def report(hparams, output_folder, results, sections):
    """Writes results.json and report.html."""
    with atomic_write(output_folder / "results.json") as file:
        json.dump(results, file, indent=2)
    words = (
        f"Encoder: {hparams['pretrained_folder']}. In brackets intervals of "
        f"{100 * hparams['confidence']:g} %, from {hparams['bootstrap']} draws "
        "of the speakers."
    )
    main_parts = [words, figures_table(results), output_folder / "det.png"]
    write_report(
        output_folder / "report.html",
        "Speaker verification",
        [("All lists and scorings", main_parts), *sections],
    )


def main(argv):
    """Verifies by the command line and returns the results."""
    # on the screen until the output folder exists, which has a log of its own
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(message)s")
    try:
        recipe, run_opts, overrides = parse_command_line(argv, __file__)
        run_opts = join_processes(run_opts)
        hparams, text = fail_together(load_recipe, recipe, overrides, KEYS)
        fail_together(check, hparams)
        main_first(prepare, hparams)
        output_folder = pathlib.Path(hparams["output_folder"])
        sb.create_experiment_directory(str(output_folder))
        save_folder = pathlib.Path(hparams["save_folder"])
        manifests = {"trial lists": read_manifest(save_folder / "test.csv")}
        fail_together(trial_paths, hparams)
        if wants_cohort(hparams):
            path = hparams["cohort_manifest"] or save_folder / "train.csv"
            manifests["cohort"] = read_manifest(path)
        embeddings = embed(hparams, run_opts, manifests)
        if not if_main_process():
            return None
        with atomic_write(output_folder / "hyperparams.yaml") as file:
            file.write(text)
        results = score(hparams, output_folder, manifests, embeddings)
    except (ValueError, OSError) as error:
        leave(error)
    print(figures_table(results).to_string(index=False))
    logger.info(
        f"Scores, results.json, report.html and det.png are in {output_folder}."
    )
    return results


def score(hparams, output_folder, manifests, embeddings):
    """All that comes after the embeddings."""
    cohort = ()
    if wants_cohort(hparams):
        cohort = embeddings[1], manifests["cohort"]["spk_id"].tolist()
        speakers = len(set(cohort[1]))
        if hparams["cohort_by"] == "speaker" and speakers < hparams["top_n"]:
            logger.warning(
                f"`top_n` is {hparams['top_n']}, but the cohort has {speakers} "
                "speakers; AS-norm takes all of them."
            )
    back_end = BackEnd(
        *cohort,
        top_n=hparams["top_n"],
        by=hparams["cohort_by"],
        block_size=hparams["block_size"],
        plda_rank=hparams["plda_rank"],
    )
    fitted = calibrations(hparams, back_end, manifests.get("cohort"))
    models = hparams["enrolment"] and read_enrolment(hparams["enrolment"])
    utterances = TrialRows(manifests["trial lists"], embeddings[0], models)
    conditions = None
    if models is None:
        conditions = utterance_conditions(
            manifests["trial lists"], hparams["conditions"]
        )
    results, curves, sections = verify(
        hparams, output_folder, back_end, fitted, utterances, conditions
    )
    det_plot(curves, output_folder / "det.png")
    report(hparams, output_folder, results, sections)
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
