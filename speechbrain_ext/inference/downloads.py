"""Downloads of pretrained folders from the Hugging Face Hub."""

import pathlib
import re

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from speechbrain.utils.logger import get_logger

from speechbrain_ext.inference.folder_checks import (
    LARGEST_FOLDER,
    LARGEST_TEXT,
    check_files,
)
from speechbrain_ext.inference.safe_weights import has_safetensors

logger = get_logger(__name__)

HUB = "hf:"
TEXTS = (
    "README.md",
    "calibration.json",
    "hyperparams.yaml",
    "label_encoder.txt",
    "recipe.yaml",
    "sums.json",
)
COHORT = "normalization.npz"
WEIGHTS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.(ckpt|safetensors)")
# What the Hub's client raises. HTTPError is that of its HTTP library.
HUB_ERRORS = (OSError, ValueError, HTTPError)


def pretrained_names(names):
    """The names that files of a pretrained folder can have.

    Scripts, hidden files and subfolders are left out, and so is a ``.ckpt``
    whose weights are there as safetensors, if that package is installed.

    Arguments
    ---------
    names : iterable of str
        Names of files, relative to the folder.

    Returns
    -------
    list of str
        Those of a pretrained folder, sorted.

    Example
    -------
    >>> pretrained_names(["run.py", "hyperparams.yaml", "a/b.ckpt", ".git"])
    ['hyperparams.yaml']
    """
    known = {
        name
        for name in names
        if name in TEXTS or name == COHORT or WEIGHTS.fullmatch(name)
    }
    if has_safetensors():
        known -= {
            f"{name.removesuffix('.safetensors')}.ckpt"
            for name in known
            if name.endswith(".safetensors")
        }
    return sorted(known)


def download_pretrained(repo_id, revision=None, token=None, offline=False):
    """Downloads a pretrained folder to the Hub's cache.

    Only files that a pretrained folder can have are downloaded, see
    ``pretrained_names``, and their sizes are checked before. If the Hub cannot
    be reached, the copy in the cache is used.

    Arguments
    ---------
    repo_id : str
        ``owner/name`` on the Hub.
    revision : str
        A branch, tag or commit; None for the main branch.
    token : str
        The user's access token; None for the one that was saved by logging in.
    offline : bool
        Whether to use only the cache. The environment variable
        ``HF_HUB_OFFLINE=1`` means the same.

    Returns
    -------
    pathlib.Path
        The folder in the cache, whose files are links within the cache.

    Raises
    ------
    OSError
        If the model cannot be downloaded, or is not in the cache.
    ValueError
        If a file is too large, a link out of the cache or a card with a
        script.

    Example
    -------
    >>> download_pretrained("owner/no-such-model", offline=True)
    Traceback (most recent call last):
    OSError: hf:owner/no-such-model cannot be used (it is not in the cache...
    """
    place = {"revision": revision, "token": token}
    offline, names = offline or constants.HF_HUB_OFFLINE, None
    try:
        if not offline:
            names = _names_on_hub(repo_id, place)
        folder = huggingface_hub.snapshot_download(
            repo_id,
            allow_patterns=names or pretrained_names([*TEXTS, COHORT]),
            local_files_only=names is None,
            **place,
        )
    except FileNotFoundError as error:  # not in the cache
        raise OSError(
            f"{HUB}{repo_id} cannot be used (it is not in the cache, and the "
            f"Hub {'must not be asked' if offline else 'cannot be reached'}); "
            "download it once with a network."
        ) from error
    except HUB_ERRORS as error:
        raise OSError(
            f"{HUB}{repo_id} cannot be downloaded from the Hugging Face Hub "
            f"({hub_words(error)}); check the name (hf:owner/name) and the "
            "network, or pass a folder on this machine."
        ) from error
    folder = pathlib.Path(folder)
    check_files(folder)
    return folder


def hub_words(error):
    """An error of the Hub's client in words.

    Arguments
    ---------
    error : Exception
        One of ``HUB_ERRORS``.

    Returns
    -------
    str
        A phrase without a full stop.

    Example
    -------
    >>> hub_words(ValueError("a name\\nof a model"))
    'a name'
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, RepositoryNotFoundError):
        return "it does not exist, or the token may not read it"
    if status in (401, 403):
        return "the Hub refuses the token; log in with `hf auth login`"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")


def _names_on_hub(repo_id, place):
    """Names of the files to download; None if the Hub cannot be reached."""
    api = huggingface_hub.HfApi(token=place["token"])
    try:
        info = api.model_info(
            repo_id, revision=place["revision"], files_metadata=True
        )
    except HfHubHTTPError:
        raise
    except (OSError, HTTPError) as error:
        logger.warning(
            f"The Hugging Face Hub cannot be reached ({hub_words(error)}); "
            f"the copy of {repo_id} in the cache is used."
        )
        return None
    sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
    names = pretrained_names(sizes)
    if "hyperparams.yaml" not in names:
        raise ValueError("it has no hyperparams.yaml")
    for name in names:
        if name in TEXTS and sizes[name] > LARGEST_TEXT:
            raise ValueError(f"its {name} has {sizes[name]} bytes")
    total = sum(sizes[name] for name in names)
    if total > LARGEST_FOLDER:
        raise ValueError(
            f"its files have {total} bytes, more than {LARGEST_FOLDER}"
        )
    return names
