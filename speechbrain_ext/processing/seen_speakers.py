"""Speakers of a trial list or a calibration who were seen before."""

import numpy as np

UNKNOWN = "It is not known whether {}: {}."


def seen_speakers(
    targets, enrol, test, trained=None, cohort=None, calibration=None
):
    """Counts the speakers of a trial list who were seen before.

    Error rates on speakers of the training set say little about new speakers.
    VoxCeleb1-E and -H, for example, have speakers of VoxCeleb1's training
    part.

    Arguments
    ---------
    targets : np.ndarray
        True for target trials, [trials].
    enrol : sequence of str
        Speaker of each trial's enrolment utterance, [trials].
    test : sequence of str
        Speaker of each trial's test utterance, [trials].
    trained : set of str
        The speakers of the training set; None if they are not known.
    cohort : set of str
        The speakers of the cohort; empty if there is none.
    calibration : set of str
        The speakers of a calibration of its own; None if there is none.

    Returns
    -------
    dict
        ``list``: number of speakers in the list. ``seen in training`` and
        ``in the cohort``: how many of them are there; ``in the calibration``
        if there is one. ``trials seen in training``, ``trials in the cohort``,
        ``trials in the calibration``: trials with such a speaker. A count that
        is not known is None. All are None if most target trials have two
        speakers, as happens when a file list names no speakers.

    Example
    -------
    >>> targets = np.array([True, False])
    >>> found = seen_speakers(targets, ["a", "a"], ["a", "b"], {"b"}, set())
    >>> found["list"], found["seen in training"]
    (2, 1)
    >>> found["trials seen in training"]
    1
    """
    enrol, test = (np.asarray(side, dtype=object) for side in (enrol, test))
    targets = np.asarray(targets, dtype=bool)
    known = np.mean((enrol == test)[targets]) > 0.5 if targets.any() else False
    names = {*enrol, *test}
    found = {"list": len(names) if known else None}
    others = {"seen in training": trained, "in the cohort": cohort or set()}
    if calibration is not None:
        others["in the calibration"] = calibration
    for words, other in others.items():
        told = known and other is not None
        both = names & set(other or ())
        touched = [
            a in both or b in both for a, b in zip(enrol, test, strict=True)
        ]
        found[words] = len(both) if told else None
        found[f"trials {words}"] = sum(touched) if told else None
    return found


def speaker_sentences(found, trials):
    """Sentences about what ``seen_speakers`` has counted.

    Arguments
    ---------
    found : dict
        What ``seen_speakers`` returned.
    trials : int
        Number of trials in the list.

    Returns
    -------
    warnings : list of str
        About speakers who were seen before.
    others : list of str
        That none was seen, or that it is not known.

    Example
    -------
    >>> targets = np.array([True, False])
    >>> found = seen_speakers(targets, ["a", "a"], ["a", "b"], {"c"}, {"b"})
    >>> speaker_sentences(found, 2)[1]
    ["None of the list's 2 speakers was seen in training."]
    >>> speaker_sentences(found, 2)[0]
    ["1 of the list's 2 speakers is in the cohort (1 of 2 trials has one): \
normalized and calibrated scores look too good."]
    """
    if found["list"] is None:
        reason = "the labels of the trials do not match the manifest's speakers"
        what = "the list's speakers were seen in training or are in the cohort"
        return [], [UNKNOWN.format(what, reason)]
    warnings, others = [], []
    effects = {
        "seen in training": "error rates of new speakers are higher",
        "in the cohort": "normalized and calibrated scores look too good",
        "in the calibration": "calibrated scores look too good",
    }
    for words, effect in effects.items():
        if words not in found:
            continue
        count, touched = found[words], found[f"trials {words}"]
        training = words == "seen in training"
        if count is None:
            reason = "the encoder came without a map of its training speakers"
            what = "the list's speakers were seen in training"
            others.append(UNKNOWN.format(what, reason))
        elif count:
            be = ("was" if count == 1 else "were") if training else ""
            be = be or ("is" if count == 1 else "are")
            have = "has" if touched == 1 else "have"
            warnings.append(
                f"{count} of the list's {found['list']} speakers {be} {words} "
                f"({touched} of {trials} trials {have} one): {effect}."
            )
        elif training:
            others.append(
                f"None of the list's {found['list']} speakers was {words}."
            )
    return warnings, others


def calibration_sentence(speakers, trained):
    """A warning if a calibration is fitted on speakers of the training set.

    Arguments
    ---------
    speakers : sequence of str
        Speaker of each utterance that the calibration is fitted on.
    trained : set of str
        The speakers of the training set; None if they are not known.

    Returns
    -------
    str
        The warning, or None if no such speaker is known.

    Example
    -------
    >>> calibration_sentence(["a", "b"], {"c"}) is None
    True
    """
    seen = len(set(trained or ()).intersection(speakers))
    if not seen:
        return None
    named = "1 speaker" if seen == 1 else f"{seen} speakers"
    return (
        f"The calibration is fitted on trials of {named} that the encoder was "
        "trained on, so its decisions can be too confident. Better: give a CSV "
        "of new speakers as --calibration_manifest, for example dev.csv of a "
        "training with --dev_speakers."
    )
