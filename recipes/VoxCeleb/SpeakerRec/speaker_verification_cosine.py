#!/usr/bin/env python3
"""Verifies trials with a trained encoder: embeddings, scores, error rates.

    python speaker_verification_cosine.py hparams/verification_resnet.yaml \
        --data_folder=/data/VoxCeleb

Every utterance of the trial lists is embedded once, as a whole, and its
embedding is stored on disk. Another list computes only the embeddings that it
lacks, and so does the same command after an interruption. Crops of each
utterance are embedded and stored too if `scorings` has `crops`. Under torchrun
the processes share that work. The output folder gets results.json, report.html,
a score file for each list and scoring, DET plots and histograms; the screen
gets a table. Log, report and results.json count the speakers of the lists who
are in the training set, the cohort or the calibration, and warn of small lists.
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
from speechbrain_ext.dataio.crops import Crops
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.parallel import removed_on_error
from speechbrain_ext.dataio.preparation import (
    ENROLMENT,
    expand_trial_lists,
    prepared_corpus,
    require_trial_lists,
)
from speechbrain_ext.dataio.score_files import write_score_files
from speechbrain_ext.dataio.text_files import find_file
from speechbrain_ext.dataio.trials import (
    read_enrolment,
    resolve_trial_lists,
)
from speechbrain_ext.inference.embedding_store import (
    EmbeddingStore,
    model_fingerprint,
    stored_embeddings,
)
from speechbrain_ext.inference.folder_checks import refuse_other_run
from speechbrain_ext.inference.loading import (
    explain_torch_errors,
    load_encoder,
    pretrained_folder,
    training_speakers,
)
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.inference.verified import keep_calibrations, keep_figures
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
    calibration_sentence,
    seen_speakers,
    speaker_sentences,
)
from speechbrain_ext.processing.trial_embeddings import (
    TrialEmbeddings,
    require_models,
)
from speechbrain_ext.utils.bootstrap import speaker_bootstrap
from speechbrain_ext.utils.command_line import parse_command_line
from speechbrain_ext.utils.conditions import utterance_conditions
from speechbrain_ext.utils.distributed import (
    exit_with_error,
    init_processes,
    main_process_first,
    raise_on_all,
    rank,
    shut_down_processes,
    world_size,
)
from speechbrain_ext.utils.experiment import (
    claim_output_folder,
    start_experiment,
)
from speechbrain_ext.utils.files import atomic_write, explain_disk_full
from speechbrain_ext.utils.recipe import load_recipe
from speechbrain_ext.utils.report import results_table, write_report
from speechbrain_ext.utils.train_logger import quiet_libraries
from speechbrain_ext.utils.trial_list_report import (
    TrialListReport,
    overview_plot,
)
from speechbrain_ext.utils.verification_report import report_sections

logger = get_logger(__name__)

# What this script reads of a YAML; a key that nothing uses is an error
KEYS = """
    seed output_folder save_folder data_folder file_list layout trial_lists
    enrolment max_unreadable skip_prep pretrained_folder embeddings_folder
    cohort_manifest calibration_manifest conditions batch_seconds num_workers
    trust precision block_size scorings crops crop_seconds top_n cohort_by
    plda_rank calibrate calibration_trials calibration_prior p_targets
    bootstrap confidence score_forms score_matrices
""".split()

INTERRUPTED = "Interrupted; the same command uses the stored embeddings."

# Keys of files, looked for in the working directory and the data folders
FILES = ("enrolment", "conditions", "cohort_manifest", "calibration_manifest")


def find_files(hparams):
    """Finds the files that the YAML names, and stores their full paths."""
    folders = corpus_folders(hparams["data_folder"])
    for key in FILES:
        if hparams[key] is None:
            continue
        path = hparams[key] = find_file(hparams[key], folders, f"`{key}`")
        if not pathlib.Path(path).is_file():
            raise ValueError(f"{path} is not a file; check its path.")


def check(hparams):
    """Checks what can be known before anything is read."""
    for name in hparams["scorings"]:
        find_scoring(name)
    for name in hparams["calibrate"]:
        find_calibrated_scoring(name)
    require_models(
        hparams["enrolment"], hparams["scorings"], hparams["conditions"]
    )
    pretrained_folder(hparams["pretrained_folder"])
    refuse_other_run(hparams["output_folder"], hparams)


def wants_cohort(hparams):
    """Whether the cohort has to be embedded."""
    fitted = [find_calibrated_scoring(name) for name in hparams["calibrate"]]
    if any(one.with_quality for one in fitted):
        return True
    if fitted and hparams["calibration_manifest"] is None:
        return True
    names = [one.scoring.name for one in fitted]
    return needs_cohort([*hparams["scorings"], *names])


def prepare(hparams):
    """Checks trial lists, writes manifests; returns paths and models."""
    lists, models = hparams["trial_lists"], None
    if hparams["enrolment"] is not None:
        models = read_enrolment(hparams["enrolment"])
        folders = corpus_folders(hparams["data_folder"])
        named = resolve_trial_lists(lists, folders)
        folder = pathlib.Path(hparams["save_folder"], ENROLMENT)
        lists = expand_trial_lists(named, models, folder)
    # without a cohort from this corpus its training files need not be there
    from_corpus = wants_cohort(hparams) and hparams["cohort_manifest"] is None
    prepared = prepare_voxceleb(
        data_folder=hparams["data_folder"],
        save_folder=hparams["save_folder"],
        trial_lists=lists,
        max_unreadable=hparams["max_unreadable"],
        seed=hparams["seed"],
        test_only=not from_corpus,
        skip_prep=hparams["skip_prep"],
        file_list=hparams["file_list"],
        layout=hparams["layout"],
    )
    if models is not None:  # the scores are those of models
        prepared = prepared_corpus(hparams["save_folder"], named)
    require_trial_lists(prepared, hparams["data_folder"])
    return prepared, models


def read_inputs(hparams, prepared):
    """Reads and checks manifests and conditions."""
    manifests = {"trial lists": read_manifest(prepared.test)}
    if wants_cohort(hparams):
        path = hparams["cohort_manifest"] or prepared.train
        cohort = manifests["cohort"] = read_manifest(path)
        if needs_cohort(hparams["scorings"]):
            require_cohort(cohort, path, hparams["cohort_by"])
    conditions = None
    if hparams["enrolment"] is None:
        conditions = utterance_conditions(
            manifests["trial lists"], hparams["conditions"]
        )
    if hparams["calibrate"] and hparams["calibration_manifest"] is not None:
        path = hparams["calibration_manifest"]
        manifests["calibration"] = read_manifest(path)
    return manifests, conditions


def embed(hparams, encoder, manifests, crops=None):
    """Embeds utterances of manifests or their crops; on the encoder's device.

    Utterances without speech are an error in trial lists, and are removed from
    the other manifests.
    """
    folder = pretrained_folder(hparams["pretrained_folder"])
    fingerprint = model_fingerprint(folder)
    store = EmbeddingStore(
        hparams["embeddings_folder"], fingerprint, crops, hparams["precision"]
    )
    main_process_first(store.lock)
    found = {}
    embeddings_of = functools.partial(
        stored_embeddings,
        encoder,
        store=store,
        batch_seconds=hparams["batch_seconds"],
        num_workers=hparams["num_workers"],
        progressbar=not encoder.noprogressbar,
        share=(rank(), world_size()),
        # a process that waits here ends if another one fails
        gather=lambda: raise_on_all(bool),
    )
    for name, manifest in manifests.items():
        logger.info(f"Embedding {len(manifest)} utterances of the {name}.")
        with explain_torch_errors(f"The embeddings of the {name}"):
            try:
                embeddings = embeddings_of(manifest)
            except NoSpeechError as error:
                spoken = ~manifest["ID"].isin(error.reasons)
                if name not in ("cohort", "calibration") or not spoken.any():
                    raise
                logger.warning(f"Left out of the {name}: {error}")
                manifests[name] = manifest[spoken].reset_index(drop=True)
                embeddings = embeddings_of(manifests[name])
        found[name] = embeddings.to(encoder.device)
    return found


def embed_crops(hparams, encoder, manifest):
    """Embeds crops of the utterances, if a scoring asks for them."""
    if "crops" not in hparams["scorings"]:
        return None
    crops = Crops(hparams["crops"], hparams["crop_seconds"])
    name = f"trial lists, {crops.number} crops each"
    return embed(hparams, encoder, {name: manifest}, crops)[name]


def make_back_end(hparams, manifests, embeddings):
    """What scores trials, with the cohort if one is needed."""
    cohort = ()
    if "cohort" in manifests:
        speakers = manifests["cohort"]["spk_id"].tolist()
        cohort = embeddings["cohort"], speakers
        number = len(set(cohort[1]))
        if hparams["cohort_by"] == "speaker" and number < hparams["top_n"]:
            logger.warning(
                f"`top_n` is {hparams['top_n']}, but the cohort has {number} "
                "speakers; AS-norm takes all of them."
            )
    return BackEnd(
        *cohort,
        top_n=hparams["top_n"],
        by=hparams["cohort_by"],
        block_size=hparams["block_size"],
        plda_rank=hparams["plda_rank"],
    )


def calibrations(hparams, back_end, manifests, embeddings, trained):
    """Fits the calibrations on other speakers' trials, and saves them."""
    own = "calibration" if "calibration" in manifests else "cohort"
    manifest = manifests.get(own)
    found = fit_calibrations(
        hparams["calibrate"],
        back_end,
        manifest,
        hparams["calibration_trials"],
        hparams["seed"],
        hparams["calibration_prior"],
        embeddings.get(own),
    )
    if not found:
        return found
    sentence = calibration_sentence(manifest["spk_id"], trained)
    if sentence:
        logger.warning(sentence)
    path = pathlib.Path(hparams["output_folder"], "calibration.json")
    save_calibrations(path, found)
    folder, by = hparams["pretrained_folder"], hparams["cohort_by"]
    keep_calibrations(folder, found, back_end, by)
    return found


def start_report(hparams, path, trials, speakers, known):
    """The report of a trial list, and sentences on speakers seen before."""
    targets = trials["target"].to_numpy(dtype=bool, copy=True)
    seen = seen_speakers(targets, *speakers, *known)
    warnings, sentences = speaker_sentences(seen, len(targets))
    for sentence in sentences:
        logger.info(f"{path.name}: {sentence}")
    draws, seed = hparams["bootstrap"], hparams["seed"]
    report = TrialListReport(
        hparams["output_folder"],
        path,
        trials,
        seen,
        warnings,
        hparams["p_targets"],
        speaker_bootstrap(targets, *speakers, draws, seed, path.name),
        hparams["confidence"],
    )
    return report, sentences


def verify(hparams, path, utterances, back_end, fitted, conditions, known):
    """Scores a trial list by all scorings; returns its report."""
    folder = hparams["output_folder"]
    trials, numbers = utterances.trials(path)
    speakers = utterances.trial_speakers(numbers)
    report, sentences = start_report(hparams, path, trials, speakers, known)
    for name, label, scores, calibration in scores_by_name(
        hparams["scorings"],
        fitted,
        back_end,
        utterances.embeddings,
        *numbers,
        utterances.seconds,
        utterances.crops,
    ):
        calibrated = calibration is not None
        calibration = calibration or fitted.get(name)
        report.add(name, label, scores, calibrated, calibration)
        file = pathlib.Path(folder, f"scores_{path.stem}_{name}")
        files = write_score_files(file, trials, scores, hparams["score_forms"])
        report.rows[-1]["scores"] = ", ".join(files)
    if hparams["score_matrices"]:
        write_trial_matrix(
            folder, path.stem, trials, numbers, utterances.embeddings
        )
    models = hparams["enrolment"] is not None
    report.finish(speakers, models, conditions, sentences)
    return report


def score(hparams, prepared, models, inputs, embeddings, crops, trained):
    """Scores all trial lists, writes everything and returns the results."""
    manifests, conditions = inputs
    back_end = make_back_end(hparams, manifests, embeddings)
    fitted = calibrations(hparams, back_end, manifests, embeddings, trained)
    utterances = TrialEmbeddings(
        manifests["trial lists"], embeddings["trial lists"], models, crops
    )
    known = (
        trained,
        *(
            set(manifests[name]["spk_id"]) if name in manifests else None
            for name in ("cohort", "calibration")
        ),
    )
    reports = [
        verify(hparams, path, utterances, back_end, fitted, conditions, known)
        for path in prepared.trial_lists
    ]
    output_folder = pathlib.Path(hparams["output_folder"])
    keep_figures(hparams["pretrained_folder"], reports)
    results = [row for report in reports for row in report.rows]
    folder = pretrained_folder(hparams["pretrained_folder"])
    with atomic_write(output_folder / "results.json") as file:
        origin = {
            "encoder": model_fingerprint(folder),
            "cohort speakers": len(set(back_end.speakers or ())),
        }
        json.dump([row | origin for row in results], file, indent=2)
    overview_plot(reports, output_folder / "det.png")
    found = report_sections(
        results,
        [report.counts for report in reports],
        [report.section for report in reports],
        output_folder / "det.png",
        folder,
    )
    write_report(output_folder / "report.html", "Speaker verification", found)
    return results


def main(argv):
    """Verifies by the command line and returns the results."""
    # on the screen until the output folder exists, which has a log of its own
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(message)s")
    quiet_libraries()
    try:
        recipe, run_opts, overrides = parse_command_line(argv, __file__)
        run_opts = init_processes(run_opts)
        hparams, text = raise_on_all(
            load_recipe, recipe, overrides, KEYS, run_opts
        )
        raise_on_all(find_files, hparams)
        raise_on_all(check, hparams)
        output_folder = pathlib.Path(hparams["output_folder"])
        with removed_on_error(output_folder):
            raise_on_all(claim_output_folder, output_folder, __file__)
            prepared, models = main_process_first(
                prepare, hparams, once_per_node=True
            )
            main_process_first(start_experiment, output_folder, text, __file__)
        inputs = raise_on_all(read_inputs, hparams, prepared)
        encoder = raise_on_all(
            load_encoder,
            hparams["pretrained_folder"],
            run_opts,
            hparams["trust"],
        )
        embeddings = raise_on_all(embed, hparams, encoder, inputs[0])
        crops = raise_on_all(
            embed_crops, hparams, encoder, inputs[0]["trial lists"]
        )
        main_process = if_main_process()
        # in order: a process that leaves its group open can abort at its end
        shut_down_processes()
        if not main_process:
            return None
        trained = training_speakers(encoder)
        with (
            explain_torch_errors("The scores"),
            explain_disk_full(output_folder),
        ):
            results = score(
                hparams, prepared, models, inputs, embeddings, crops, trained
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


if __name__ == "__main__":
    main(sys.argv[1:])
