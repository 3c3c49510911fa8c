"""The subcommand ``score``: the scores of a trial list, as a file."""

import pathlib

import numpy as np
import torch

from speechbrain_ext.cli.answer import Answer
from speechbrain_ext.cli.embed import embed_files, require_batches, require_few
from speechbrain_ext.cli.encoders import open_verifier
from speechbrain_ext.dataio.audio_files import list_audio
from speechbrain_ext.dataio.score_files import write_scores
from speechbrain_ext.dataio.text_files import shorten
from speechbrain_ext.dataio.trials import read_enrolment, read_trials
from speechbrain_ext.dataio.utterance_ids import utterance_id
from speechbrain_ext.processing.scoring import find_scoring
from speechbrain_ext.processing.trial_embeddings import TrialEmbeddings
from speechbrain_ext.utils.files import require_own
from speechbrain_ext.utils.metrics import EER, minDCF

P_TARGET = 0.01


def files_of_trials(named, files, path):
    """The audio files of the utterances that a trial list names.

    Arguments
    ---------
    named : collection of str
        IDs of the utterances, as ``read_trials`` gives them.
    files : pandas.DataFrame
        Columns ID and wav, see ``list_audio``.
    path : str
        The trial list, for the error message.

    Returns
    -------
    pandas.DataFrame
        The rows of the utterances, with the IDs of the trial list.

    Raises
    ------
    FileNotFoundError
        If utterances have no file.
    ValueError
        If an utterance has two files.

    Example
    -------
    >>> import pandas as pd
    >>> files = pd.DataFrame({"ID": ["wav/id1/s/1.wav"], "wav": ["/d/1.wav"]})
    >>> files_of_trials(["id1/s/1"], files, "trials.txt").ID.tolist()
    ['id1/s/1']
    """
    named = set(named)
    found = files.assign(ID=files.ID.map(utterance_id))
    found = found[found.ID.isin(named)].reset_index(drop=True)
    missing = sorted(named.difference(found.ID))
    if missing:
        raise FileNotFoundError(
            f"{path} names {len(missing)} utterance{'s' * (len(missing) > 1)} "
            f"without an audio file in --audio: "
            f"{shorten(', '.join(missing[:5]), 300)}; name the folder or the "
            "list that has them."
        )
    again = found[found.ID.duplicated(keep=False)]
    if len(again):
        one, other = again[again.ID == again.ID.iloc[0]].wav.head(2)
        raise ValueError(
            f"The utterance {shorten(again.ID.iloc[0])} of {path} has two "
            f"files in --audio: {shorten(one)} and {shorten(other)}; name a "
            "folder or a list with one of them."
        )
    return found


def score(arguments):
    """Scores a trial list and writes a score file.

    Arguments
    ---------
    arguments : argparse.Namespace
        Of the subcommand.

    Returns
    -------
    Answer
        What was written, and the equal error rate if the list has target and
        nontarget trials.

    Raises
    ------
    ValueError
        If ``--llr`` is given, and there is no calibration for it, labels are
        asked for that the list does not have, or a model is missing.
    """
    require_batches(arguments)
    require_own(arguments.out)
    trials = read_trials(arguments.trials, labelled=False)
    form = arguments.form
    if form == "wespeaker" and "target" not in trials:
        raise ValueError(
            f"--form=wespeaker writes labels, and {arguments.trials} has none; "
            "leave --form out."
        )
    models = arguments.models and read_enrolment(arguments.models)
    named, enrolled = set(trials["test"]), set(trials["enrol"])
    if models:
        unknown = sorted(enrolled.difference(models))
        if unknown:
            raise ValueError(
                f"{arguments.trials} names {len(unknown)} "
                f"model{'s' * (len(unknown) > 1)} that {arguments.models} "
                f"lacks, for example {shorten(unknown[0])}; add it there."
            )
        named |= {name for model in enrolled for name in models[model]}
    else:
        named |= enrolled
    files = list_audio(arguments.audio, arguments.root)
    files = files_of_trials(named, files, arguments.trials)
    verifier = open_verifier(
        arguments.encoder, arguments.device, arguments.trust
    )
    scoring = verifier.decisions.scoring(arguments.scoring)
    calibration = verifier.decisions.calibrations.get(scoring)
    if arguments.llr and calibration is None:
        raise ValueError(
            f"--llr needs a calibration of {scoring}, and the pretrained "
            "folder has none; run speaker_verification_cosine.py, which writes "
            "it, or leave --llr out."
        )
    manifest, embeddings, failures = embed_files(
        verifier,
        files,
        arguments.batch_seconds,
        arguments.workers,
        not arguments.quiet,
    )
    require_few(failures, len(files), "0")
    table = TrialEmbeddings(
        manifest.assign(spk_id=""), torch.from_numpy(embeddings), models
    )
    _, sides = table.trials(pathlib.Path(arguments.trials), labelled=False)
    scores = verifier.decisions.back_end.scores(
        scoring, table.embeddings, *sides
    ).double()
    if arguments.llr:
        scores = torch.from_numpy(calibration(scores.numpy()))
    labelled = "target" in trials
    known = trials["target"] if labelled else np.zeros(len(trials), bool)
    targets = torch.from_numpy(np.array(known))
    write_scores(
        arguments.out,
        trials["enrol"].tolist(),
        trials["test"].tolist(),
        scores,
        targets,
        form or ("wespeaker" if labelled else "kaldi"),
    )
    label = find_scoring(scoring).label
    text = f"{arguments.out}: {len(trials)} trials by {label}"
    values = {
        "out": arguments.out,
        "trials": len(trials),
        "files": len(manifest),
        "scoring": scoring,
        "log_likelihood_ratios": arguments.llr,
        "fingerprint": verifier.fingerprint,
    }
    if labelled:
        values["targets"] = int(targets.sum())
    if 0 < targets.sum() < len(targets):
        eer, _ = EER(scores[targets], scores[~targets])
        cost, _ = minDCF(scores[targets], scores[~targets], p_target=P_TARGET)
        text += f", EER {100 * eer:.2f} %, minDCF({P_TARGET}) {cost:.4f}"
        values |= {"eer": float(eer), "min_dcf": float(cost)}
        values["p_target"] = P_TARGET
    return Answer(text, values)
