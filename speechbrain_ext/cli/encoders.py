"""Loads the encoder that a command line names, and checks its files."""

import os

from speechbrain_ext.dataio.audio import file_header
from speechbrain_ext.inference.loading import (
    load_encoder,
    pretrained_folder,
    require_device,
)
from speechbrain_ext.inference.speaker import SpeakerVerifier


def open_verifier(source, device="cpu", trust=False):
    """Loads a pretrained folder for the command line.

    Arguments
    ---------
    source : str
        A folder, or ``hf:owner/name``.
    device : str
        Where the encoder computes.
    trust : bool
        Whether the folder may run code, see ``load_encoder``.

    Returns
    -------
    speechbrain_ext.inference.speaker.SpeakerVerifier
        The verifier, with the folder's calibration and cohort.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    OSError
        If a file cannot be read.
    ValueError
        If something is refused or does not fit, or the device does not exist.

    Example
    -------
    >>> open_verifier("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: The pretrained folder no/such/folder has no...
    """
    require_device(device)
    options = {"device": device}
    folder = pretrained_folder(source)
    if not trust:
        return SpeakerVerifier.from_folder(folder, options)
    encoder = load_encoder(folder, options, trust=True)
    verifier = SpeakerVerifier(encoder.mods, vars(encoder.hparams), options)
    verifier.use_folder(folder)
    return verifier


def require_audio(paths):
    """Raises unless each path is an audio file that can be opened.

    It only reads headers, so an error comes before the encoder is loaded.

    Arguments
    ---------
    paths : list of str
        The files.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If it is not a file, or not one of audio.

    Example
    -------
    >>> require_audio([getfixture("tmp_path")])
    Traceback (most recent call last):
    ValueError: ...is not a file; name an audio file.
    """
    for path in paths:
        if os.path.isdir(path):
            raise ValueError(f"{path} is not a file; name an audio file.")
        file_header(path)
