"""The subcommands ``verify``, ``enrol`` and ``identify``."""

import dataclasses
import math
import os

from speechbrain_ext.cli.answer import NO, YES, Answer
from speechbrain_ext.cli.encoders import open_verifier, require_audio
from speechbrain_ext.inference.loading import explain_torch_errors
from speechbrain_ext.processing.scoring import find_scoring


def compare_files(
    verifier, first, second, p_target=None, scoring=None, threshold=None
):
    """Decides whether two files have the same speaker.

    Arguments
    ---------
    verifier : speechbrain_ext.inference.speaker.SpeakerVerifier
        The encoder.
    first : str
        An audio file.
    second : str
        Another audio file.
    p_target : float
        Prior probability of the same speaker, see ``SpeakerVerifier.verify``.
    scoring : str
        As in ``SpeakerVerifier.verify``.
    threshold : float
        The speaker is the same if the score is greater. None for the
        threshold of the calibration, or SpeechBrain's.

    Returns
    -------
    found : speechbrain_ext.processing.decisions.Verification
        Score, log-likelihood ratio and decision.
    cosine : float
        The cosine of the two embeddings.

    Raises
    ------
    ValueError
        If a file cannot be used, the scoring is not available, or there is no
        threshold.
    OSError
        If a file does not exist.
    """
    require_audio([first, second])
    scoring = require_threshold(
        verifier.decisions, p_target, scoring, threshold
    )
    with explain_torch_errors(f"The embeddings of {first} and {second}"):
        one, other = (
            verifier.encode_stream(path).reshape(-1).float().cpu().numpy()
            for path in (first, second)
        )
        found, plain = (
            verifier.decisions.verify(first, one, other, prior, name)
            for name, prior in ((scoring, p_target), ("cosine", None))
        )
    return with_threshold(found, threshold), plain.score


def require_threshold(decisions, p_target=None, scoring=None, threshold=None):
    """Raises unless a decision by a scoring is possible.

    Arguments
    ---------
    decisions : speechbrain_ext.processing.decisions.Decisions
        The calibrations and the cohort of the folder.
    p_target : float
        Prior probability of the same speaker, or None.
    scoring : str
        A name of a scoring, or None.
    threshold : float
        A threshold of the user, or None.

    Returns
    -------
    str
        The name of the scoring.

    Raises
    ------
    ValueError
        If the scoring is not available, or there is no threshold or it is
        not finite.

    Example
    -------
    >>> from speechbrain_ext.processing.decisions import Decisions
    >>> require_threshold(Decisions())
    'cosine'
    """
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(
            f"`--threshold` must be a finite number, got {threshold}."
        )
    scoring = decisions.scoring(scoring)
    found, _ = decisions.threshold(scoring, p_target)
    if found is None and threshold is None:
        raise ValueError(
            f"The scoring {scoring} has no threshold, because the pretrained "
            "folder has no calibration of it; pass --threshold, or use "
            "--scoring=cosine."
        )
    return scoring


def with_threshold(found, threshold=None):
    """A verification with the decision by a threshold of the user.

    Arguments
    ---------
    found : speechbrain_ext.processing.decisions.Verification
        The verification.
    threshold : float
        The threshold; None changes nothing.

    Returns
    -------
    speechbrain_ext.processing.decisions.Verification
        The verification with this threshold.

    Example
    -------
    >>> from speechbrain_ext.processing.decisions import Verification
    >>> found = Verification("ada", True, 0.3, "cosine", 0.25)
    >>> with_threshold(found, 0.4).same_speaker
    False
    """
    if threshold is None:
        return found
    return dataclasses.replace(
        found,
        threshold=threshold,
        same_speaker=found.score > threshold,
        p_target=None,
    )


def sentence(found, decisions=None):
    """A verification in words.

    Arguments
    ---------
    found : speechbrain_ext.processing.decisions.Verification
        The verification.
    decisions : speechbrain_ext.processing.decisions.Decisions
        It has the range in which the calibration was fitted; or None.

    Returns
    -------
    str
        One line.

    Example
    -------
    >>> from speechbrain_ext.processing.decisions import Verification
    >>> sentence(Verification("ada", True, 0.3, "cosine", 0.25))
    "cosine 0.3000: the same speaker by SpeechBrain's threshold of 0.25"
    """
    words = "the same speaker" if found.same_speaker else "different speakers"
    words = f"{find_scoring(found.scoring).label} {found.score:.4f}: {words}"
    ratio = f"log-likelihood ratio {found.log_likelihood_ratio or 0:.2f}, "
    if found.log_likelihood_ratio is None:
        if found.threshold == 0.25:
            return f"{words} by SpeechBrain's threshold of 0.25"
        return f"{words} (threshold {found.threshold:.4f})"
    words += f" ({ratio}threshold {found.threshold:.4f}"
    if found.p_target is not None:
        words += f" at a prior of {found.p_target:g}"
    if not found.extrapolated or decisions is None:
        return f"{words})"
    low, high = decisions.calibrations[found.scoring].fitted_range
    return (
        f"{words}); the calibration was fitted on scores from {low:.4f} to "
        f"{high:.4f}, so the ratio is an extrapolation"
    )


def verify(arguments):
    """Compares two files, or a file with an enrolled speaker.

    Arguments
    ---------
    arguments : argparse.Namespace
        Of the subcommand.

    Returns
    -------
    Answer
        Its code is 0 for the same speaker, 1 for different ones.
    """
    how = arguments.p_target, arguments.scoring, arguments.threshold
    names = arguments.first, arguments.second
    if arguments.enrolments is None:
        require_audio(names)
        verifier = _open(arguments)
        found, cosine = compare_files(verifier, *names, *how)
        more = {"first": names[0], "cosine": cosine}
    else:
        require_audio(names[1:])
        verifier = _open(arguments)
        _use_enrolments(verifier, arguments.enrolments)
        require_threshold(verifier.decisions, *how)
        with explain_torch_errors(f"The embedding of {names[1]}"):
            found = verifier.verify(*names, *how[:2])
        found, more = with_threshold(found, how[2]), {"name": names[0]}
    values = dataclasses.asdict(found)
    values.pop("name")
    return Answer(
        sentence(found, verifier.decisions),
        {**more, "second": names[1], **values},
        YES if found.same_speaker else NO,
    )


def enrol(arguments):
    """Enrols a speaker, or removes one.

    Arguments
    ---------
    arguments : argparse.Namespace
        Of the subcommand.

    Returns
    -------
    Answer
        The names that are enrolled now.

    Raises
    ------
    ValueError
        If the name is enrolled already, no file is given, or files are given
        for a speaker to remove.
    """
    name, path = arguments.name, arguments.enrolments
    if arguments.remove and arguments.files:
        raise ValueError(
            f"--remove takes no audio files, got {arguments.files[0]}; leave "
            "the files out."
        )
    if not arguments.remove and not arguments.files:
        raise ValueError(
            f"{name!r} needs one audio file or more, got none; name them after "
            "the speaker."
        )
    require_audio(arguments.files)
    verifier = _open(arguments)
    if arguments.remove:
        _use_enrolments(verifier, path)
        verifier.enrolments.remove(name)
        done = "removed from"
    else:
        verifier.use_enrolments(path)
        if name in verifier.enrolments.read() and not arguments.replace:
            raise ValueError(
                f"{name!r} is enrolled already in {path}; pass --replace to "
                "replace the enrolment, or choose another name."
            )
        with explain_torch_errors("The embeddings"):
            verifier.enrol(name, arguments.files, arguments.replace)
        count = len(arguments.files)
        done = f"enrolled with {count} file{'s' * (count > 1)} in"
    names = list(verifier.enrolments.read())
    return Answer(
        f"{name} {done} {path} ({len(names)} speaker{'s' * (len(names) != 1)})",
        {"name": name, "enrolments": path, "speakers": names},
    )


def identify(arguments):
    """Finds the speaker of a file among the enrolled ones.

    Arguments
    ---------
    arguments : argparse.Namespace
        Of the subcommand.

    Returns
    -------
    Answer
        Its code is 0 if the speaker is enrolled, 1 for nobody.
    """
    require_audio([arguments.file])
    verifier = _open(arguments)
    _use_enrolments(verifier, arguments.enrolments)
    scoring = verifier.decisions.scoring(arguments.scoring)
    with explain_torch_errors(f"The embedding of {arguments.file}"):
        found = verifier.identify(
            arguments.file, arguments.top, arguments.p_known, scoring
        )
    lines = [f"{arguments.file}: {found.name or 'nobody who is enrolled'}"]
    label = find_scoring(scoring).label
    for candidate in found.candidates:
        line = f"  {candidate.name}: {label} {candidate.score:.4f}"
        if candidate.probability is not None:
            line += f", probability {candidate.probability:.4f}"
        lines.append(line)
    if found.p_nobody is not None:
        lines.append(f"  nobody: probability {found.p_nobody:.4f}")
    values = {
        "file": arguments.file,
        "scoring": scoring,
        **dataclasses.asdict(found),
    }
    return Answer("\n".join(lines), values, NO if found.name is None else YES)


def _open(arguments):
    """The verifier that the options name."""
    return open_verifier(arguments.encoder, arguments.device, arguments.trust)


def _use_enrolments(verifier, path):
    """Reads a file of enrolments, which must exist."""
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"The file of enrolments {path} does not exist; check its path, "
            "or make it with speechbrain-ext enrol."
        )
    verifier.use_enrolments(path)
