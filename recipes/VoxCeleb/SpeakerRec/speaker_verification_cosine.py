#!/usr/bin/env python3
"""Verifies trials with a trained encoder: embeddings, scores, figures.

    python speaker_verification_cosine.py hparams/verification_resnet.yaml \
        --data_folder=/data/VoxCeleb

Every utterance of all trial lists is embedded once, whole, and kept on disk:
another list, or a run that was killed, computes what is missing. Under torchrun
the processes share that work. Written into the output folder: results.json,
report.html, a score file for each list and scoring, the DET plot and
histograms; a table goes to the screen. Log, report and results.json also
say which speakers of the lists the encoder was trained on, or are in the
cohort, and where a list is too small for its figures.
"""

import functools
import json
import logging
import pathlib
import sys

from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from voxceleb_prepare import prepare_voxceleb

from speechbrain_ext.dataio.corpus import corpus_folders
from speechbrain_ext.dataio.enrolment import (
    read_enrolment,
    write_expanded_trials,
)
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.score_files import (
    FORMS,
    require_distinct_names,
    write_scores,
)
from speechbrain_ext.dataio.text_files import find_file
from speechbrain_ext.dataio.trials import resolve_trial_lists
from speechbrain_ext.inference.embedding_store import (
    EmbeddingStore,
    model_fingerprint,
    stored_embeddings,
)
from speechbrain_ext.inference.loading import (
    HUB,
    explain_torch_errors,
    load_encoder,
    pretrained_folder,
    training_speakers,
)
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.processing.back_end import (
    BackEnd,
    fit_calibrations,
    require_cohort,
    scores_by_name,
)
from speechbrain_ext.processing.calibration import save_calibrations
from speechbrain_ext.processing.score_matrix import write_trial_matrix
from speechbrain_ext.processing.scoring import (
    find_calibrated_scoring,
    find_scoring,
    needs_cohort,
)
from speechbrain_ext.processing.seen_speakers import (
    seen_speakers,
    speaker_sentences,
)
from speechbrain_ext.processing.trial_embeddings import TrialEmbeddings
from speechbrain_ext.utils.bootstrap import speaker_bootstrap
from speechbrain_ext.utils.command_line import parse_command_line
from speechbrain_ext.utils.conditions import (
    condition_tables,
    utterance_conditions,
)
from speechbrain_ext.utils.distributed import (
    exit_with_error,
    init_processes,
    main_process_first,
    raise_on_all,
    rank,
    world_size,
)
from speechbrain_ext.utils.evaluation import (
    evaluate,
    evaluation_notes,
    log_notes,
    metric_functions,
)
from speechbrain_ext.utils.experiment import start_experiment
from speechbrain_ext.utils.files import (
    atomic_write,
    explain_disk_full,
    refuse_links,
)
from speechbrain_ext.utils.plots import det_plot, histogram_plot
from speechbrain_ext.utils.recipe import load_recipe
from speechbrain_ext.utils.report import results_table, write_report
from speechbrain_ext.utils.verification_report import (
    decision_thresholds,
    interval_words,
    list_counts,
    list_section,
    report_sections,
)

logger = get_logger(__name__)

# What this script reads of a YAML; a key that nothing uses is an error
KEYS = (
    *("seed", "output_folder", "save_folder", "data_folder", "trial_lists"),
    *("max_unreadable", "skip_prep", "pretrained_folder", "cohort_manifest"),
    *("scorings", "top_n", "p_targets", "batch_seconds", "num_workers"),
    *("block_size", "embeddings_folder", "enrolment", "cohort_by"),
    *("plda_rank", "calibrate", "calibration_trials", "calibration_prior"),
    *("bootstrap", "confidence", "score_forms", "score_matrices"),
    *("calibration_manifest", "conditions", "file_list", "layout"),
)

INTERRUPTED = "Interrupted; the same command goes on from what is stored."

# Keys of files, looked for in the working directory and the data folders
FILES = ("enrolment", "conditions", "cohort_manifest", "calibration_manifest")


def find_files(hparams):
    """Finds the files that the YAML names, and puts their full paths there."""
    folders = corpus_folders(hparams["data_folder"])
    for key in FILES:
        if hparams[key] is not None:
            hparams[key] = find_file(hparams[key], folders, f"`{key}`")


def check(hparams):
    """Checks what can be known before anything is read."""
    for name in hparams["scorings"]:
        find_scoring(name)
    for name in hparams["calibrate"]:
        find_calibrated_scoring(name)
    odd = sorted(set(hparams["score_forms"]) - set(FORMS))
    if odd:
        raise ValueError(
            f"`score_forms` must be of {sorted(FORMS)}, got {odd}."
        )
    if hparams["bootstrap"] == 1:
        raise ValueError(
            "`bootstrap` must be 0 (no intervals) or 2 draws and more, got 1; "
            "1000 is usual."
        )
    paths = [hparams["conditions"], hparams["calibration_manifest"]]
    for path in filter(None, [*paths, hparams["cohort_manifest"]]):
        if not pathlib.Path(path).is_file():
            raise ValueError(f"{path} is not a file; check its path.")
    pretrained_folder(hparams["pretrained_folder"])


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
        file_list=hparams["file_list"],
        layout=hparams["layout"],
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
    path = pathlib.Path(hparams["save_folder"], "prepare.json")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, by which a preparation says that it is "
            "whole; set `skip_prep` to False."
        )
    prepared = json.loads(path.read_text())
    if not prepared["trial_lists"]:
        raise ValueError(
            f"{hparams['data_folder']} has no trial lists (veri_*.txt, "
            "list_test_*.txt); name them in `trial_lists`."
        )
    return [pathlib.Path(path) for path in prepared["trial_lists"]]


def read_inputs(hparams):
    """Manifests, conditions and speakers to calibrate on, all checked."""
    save_folder = pathlib.Path(hparams["save_folder"])
    require_distinct_names(trial_paths(hparams))
    manifests = {"trial lists": read_manifest(save_folder / "test.csv")}
    if wants_cohort(hparams):
        path = hparams["cohort_manifest"] or save_folder / "train.csv"
        cohort = manifests["cohort"] = read_manifest(path)
        if needs_cohort(hparams["scorings"]):
            require_cohort(cohort, path, hparams["cohort_by"])
    conditions, speakers = None, None
    if hparams["enrolment"] is None:
        conditions = utterance_conditions(
            manifests["trial lists"], hparams["conditions"]
        )
    if hparams["calibrate"] and hparams["calibration_manifest"] is not None:
        speakers = read_manifest(hparams["calibration_manifest"])["spk_id"]
    return manifests, conditions, speakers


def lock_on_main(store):
    """Keeps other runs, and no process of this one, from a store."""
    if if_main_process():
        store.lock()


def embed(hparams, encoder, manifests):
    """Embeddings of some manifests, on the encoder's device.

    Utterances of the cohort that have no speech are taken out of its manifest.
    """
    folder = pretrained_folder(hparams["pretrained_folder"])
    store = EmbeddingStore(
        hparams["embeddings_folder"], model_fingerprint(folder)
    )
    main_process_first(lock_on_main, store)
    found = []
    embeddings_of = functools.partial(
        stored_embeddings,
        encoder,
        store=store,
        batch_seconds=hparams["batch_seconds"],
        num_workers=hparams["num_workers"],
        progressbar=not encoder.noprogressbar,
        share=(rank(), world_size()),
        # a process that fails is heard of by those that wait
        gather=lambda: raise_on_all(bool),
    )
    for name, manifest in manifests.items():
        logger.info(f"Embedding {len(manifest)} utterances of the {name}.")
        with explain_torch_errors(f"The embeddings of the {name}"):
            try:
                embeddings = embeddings_of(manifest)
            except NoSpeechError as error:
                spoken = ~manifest["ID"].isin(error.reasons)
                if name != "cohort" or not spoken.any():
                    raise
                logger.warning(f"Left out of the cohort: {error}")
                manifests[name] = manifest[spoken].reset_index(drop=True)
                embeddings = embeddings_of(manifests[name])
        found.append(embeddings.to(encoder.device))
    return found


def calibrations(hparams, back_end, manifest, speakers):
    """A calibration for each scoring asked, fitted on training speakers."""
    found = fit_calibrations(
        *(hparams["calibrate"], back_end, manifest),
        *(hparams["calibration_trials"], hparams["seed"]),
        *(hparams["calibration_prior"], speakers),
    )
    for folder in (hparams["output_folder"], hparams["pretrained_folder"]):
        try:
            if found and not str(folder).startswith(HUB):
                save_calibrations(f"{folder}/calibration.json", found)
        except OSError as error:
            logger.warning(f"{folder} gets no calibration.json: {error}")
    return found


def verify(
    hparams, output_folder, back_end, fitted, utterances, conditions, trained
):
    """Scores and measures all lists; results and the report's sections."""
    results, main_curves, counted, sections = [], {}, [], []
    for path in trial_paths(hparams):
        trials, numbers = utterances.trials(path)
        targets = trials["target"].to_numpy(dtype=bool, copy=True)
        speakers = utterances.trial_speakers(numbers)
        bootstrap = speaker_bootstrap(
            *(targets, *speakers, hparams["bootstrap"], hparams["seed"]),
            path.name,
        )
        cohort = set(back_end.speakers or ())
        counts = seen_speakers(targets, *speakers, trained, cohort)
        seen, others = speaker_sentences(counts, len(targets))
        for sentence in others:
            logger.info(f"{path.name}: {sentence}")
        rows, curves, pictures, main_scores = [], {}, [], None
        for name, words, scores, ratios in scores_by_name(
            hparams["scorings"],
            fitted,
            back_end,
            utterances.embeddings,
            *numbers,
            utterances.seconds,
        ):
            functions = metric_functions(hparams["p_targets"], ratios)
            row = evaluate(
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
            row["speakers"] = counts
            row["notes"] = seen + evaluation_notes(row, targets, counts["list"])
            rows.append({"trials": path.stem, "scoring": words, **row})
            pair = scores[targets], scores[~targets]
            # a calibration of the score alone has the same curve
            if not ratios or len(ratios.features) > 1:
                curves[words] = pair
            picture = output_folder / "histograms" / f"{path.stem}_{name}.png"
            samples = dict(zip(("target", "nontarget"), pair, strict=True))
            thresholds = decision_thresholds(
                row, hparams["p_targets"], ratios, fitted.get(name)
            )
            histogram_plot(samples, picture, words, None, thresholds)
            pictures.append(picture)
            if main_scores is None or name == "asnorm":
                main_scores = words, scores
                main_curves[path.stem] = pair
        results += rows
        log_notes(path.name, rows)
        picture = output_folder / f"det_{path.stem}.png"
        det_plot(curves, picture, p_targets=hparams["p_targets"])
        counted.append(
            list_counts(
                path.stem,
                trials,
                speakers if counts["list"] else None,
                models=hparams["enrolment"] is not None,
            )
        )
        sections.append(
            list_section(
                *(counted[-1], rows, picture, pictures),
                condition_tables(trials, conditions, *main_scores),
                interval_words(bootstrap, hparams["confidence"]),
                others,
            )
        )
        if hparams["score_matrices"]:
            write_trial_matrix(
                *(output_folder, path.stem, trials, numbers),
                utterances.embeddings,
            )
    if len(sections) > 1:
        curves = main_curves
    det_plot(curves, output_folder / "det.png", p_targets=hparams["p_targets"])
    return results, counted, sections


def report(hparams, output_folder, results, counted, sections):
    """Writes results.json and report.html."""
    with atomic_write(output_folder / "results.json") as file:
        json.dump(results, file, indent=2)
    write_report(
        output_folder / "report.html",
        "Speaker verification",
        report_sections(
            *(results, counted, sections, output_folder / "det.png"),
            hparams["pretrained_folder"],
        ),
    )


def main(argv):
    """Verifies by the command line and returns the results."""
    # on the screen until the output folder exists, which has a log of its own
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(message)s")
    try:
        recipe, run_opts, overrides = parse_command_line(argv, __file__)
        run_opts = init_processes(run_opts)
        hparams, text = raise_on_all(
            load_recipe, recipe, overrides, KEYS, run_opts
        )
        raise_on_all(find_files, hparams)
        raise_on_all(check, hparams)
        output_folder = pathlib.Path(hparams["output_folder"])
        raise_on_all(refuse_links, output_folder)
        main_process_first(prepare, hparams)
        main_process_first(start_experiment, output_folder, text, __file__)
        manifests, *others = raise_on_all(read_inputs, hparams)
        encoder = raise_on_all(
            load_encoder, hparams["pretrained_folder"], run_opts
        )
        embeddings = raise_on_all(embed, hparams, encoder, manifests)
        if not if_main_process():
            return None
        trained = training_speakers(encoder)
        with (
            explain_torch_errors("The scores"),
            explain_disk_full(output_folder),
        ):
            results = score(
                hparams, output_folder, manifests, embeddings, trained, *others
            )
    except (ValueError, OSError) as error:
        exit_with_error(error)
    except KeyboardInterrupt:
        exit_with_error(ValueError(INTERRUPTED))
    print(results_table(results).to_string(index=False))
    logger.info(
        f"Scores, results.json, report.html and det.png are in {output_folder}."
    )
    return results


def score(
    hparams,
    output_folder,
    manifests,
    embeddings,
    trained,
    conditions,
    speakers,
):
    """All that comes after the embeddings."""
    cohort = ()
    if wants_cohort(hparams):
        cohort = embeddings[1], manifests["cohort"]["spk_id"].tolist()
        number = len(set(cohort[1]))
        if hparams["cohort_by"] == "speaker" and number < hparams["top_n"]:
            logger.warning(
                f"`top_n` is {hparams['top_n']}, but the cohort has {number} "
                "speakers; AS-norm takes all of them."
            )
    back_end = BackEnd(
        *cohort,
        top_n=hparams["top_n"],
        by=hparams["cohort_by"],
        block_size=hparams["block_size"],
        plda_rank=hparams["plda_rank"],
    )
    fitted = calibrations(hparams, back_end, manifests.get("cohort"), speakers)
    models = hparams["enrolment"] and read_enrolment(hparams["enrolment"])
    utterances = TrialEmbeddings(
        manifests["trial lists"], embeddings[0], models
    )
    results, counted, sections = verify(
        *(hparams, output_folder, back_end, fitted, utterances),
        *(conditions, trained),
    )
    report(hparams, output_folder, results, counted, sections)
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
