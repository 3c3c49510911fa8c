"""The cohort of an encoder as a file: what AS-norm needs besides a trial."""

import pathlib

import numpy as np
import torch

from speechbrain_ext.processing.back_end import BackEnd
from speechbrain_ext.utils.files import atomic_write

AGAIN = "delete it and run speaker_verification_cosine.py, which writes it"


def save_cohort(path, back_end, fingerprint):
    """Writes the cohort rows, the training mean and ``top_n`` of a back end.

    Arguments
    ---------
    path : str | pathlib.Path
        File to write (NumPy's npz); it is written completely or not at all.
    back_end : speechbrain_ext.processing.back_end.BackEnd
        A back end with a cohort.
    fingerprint : str
        Fingerprint of the encoder that computed the embeddings, see
        ``speechbrain_ext.inference.embedding_store.model_fingerprint``.
    """
    with atomic_write(path, "wb") as stream:
        np.savez(
            stream,
            cohort=back_end.cohort.float().cpu().numpy(),
            mean=back_end.mean.float().cpu().numpy(),
            top_n=np.int64(back_end.top_n),
            fingerprint=np.str_(fingerprint),
        )


def load_cohort(path, fingerprint):
    """Reads the cohort that ``save_cohort`` wrote.

    Arguments
    ---------
    path : str | pathlib.Path
        The file.
    fingerprint : str
        Fingerprint of the encoder whose embeddings are scored.

    Returns
    -------
    speechbrain_ext.processing.back_end.BackEnd
        It gives the same scores as the back end that was saved, except for
        PLDA, which needs every utterance.

    Raises
    ------
    ValueError
        If the file has another form, or is of another encoder.
    OSError
        If it cannot be read.

    Example
    -------
    >>> back_end = BackEnd(torch.eye(4), ["a", "b", "c", "c"], top_n=2)
    >>> path = getfixture("tmp_path") / "normalization.npz"
    >>> save_cohort(path, back_end, "0123abcd")
    >>> load_cohort(path, "0123abcd").cohort.shape
    torch.Size([3, 4])
    """
    path = pathlib.Path(path)
    try:
        # NumPy does not close a broken file that it has opened itself
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            cohort, mean = kept["cohort"], kept["mean"]
            top_n, owner = int(kept["top_n"]), str(kept["fingerprint"])
        _check(cohort, mean, top_n)
    except OSError:
        raise
    except Exception as error:  # a broken file can raise anything
        raise ValueError(
            f"{path} is not a cohort file ({error}); {AGAIN}."
        ) from error
    if owner != fingerprint:
        raise ValueError(
            f"{path} is the cohort of another encoder (fingerprint "
            f"{owner[:16]}, the encoder has {fingerprint[:16]}); {AGAIN}."
        )
    back_end = BackEnd(torch.from_numpy(cohort), top_n=top_n, by="utterance")
    back_end.mean = torch.from_numpy(mean)
    return back_end


def _check(cohort, mean, top_n):
    """Raises if the arrays cannot be a cohort."""
    if cohort.dtype != np.float32 or mean.dtype != np.float32:
        raise ValueError(f"{cohort.dtype} and {mean.dtype}, not float32")
    if cohort.ndim != 2 or len(cohort) < 2 or mean.shape != cohort.shape[1:]:
        raise ValueError(f"shapes {cohort.shape} and {mean.shape}")
    if not np.isfinite(cohort).all() or not np.isfinite(mean).all():
        raise ValueError("values that are not finite")
    if top_n < 2:
        raise ValueError(f"`top_n` is {top_n}")
