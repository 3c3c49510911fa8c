"""Sharing of pretrained folders on the Hugging Face Hub."""

import contextlib
import os
import pathlib
import shutil

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from speechbrain.utils.logger import get_logger

from speechbrain_ext.inference.downloads import (
    COHORT,
    HUB,
    HUB_ERRORS,
    TEXTS,
    WEIGHTS,
    download_pretrained,
    hub_words,
    pretrained_names,
)
from speechbrain_ext.inference.export import keep_measured, require_exportable
from speechbrain_ext.inference.model_card import card_license
from speechbrain_ext.inference.safe_loading import load_folder
from speechbrain_ext.utils.files import atomic_path
from speechbrain_ext.utils.folders import new_folder
from speechbrain_ext.utils.seals import SUMS, seal_flaw, sealed_names
from speechbrain_ext.utils.yaml_files import read_yaml

logger = get_logger(__name__)

CARD = "README.md"


def push(
    folder, repo_id, *, private=False, token=None, revision=None, message=None
):
    """Uploads a pretrained folder to the Hugging Face Hub, in one commit.

    The folder is loaded without trust before, so that only a folder that
    everybody can load is uploaded. Only the files of a pretrained folder are
    uploaded: no other files of yours, no hidden files and no subfolders. Files
    of an older push that the folder does not have are deleted on the Hub,
    because they belong to other weights.

    Arguments
    ---------
    folder : str | pathlib.Path
        The pretrained folder. The first lines of its README.md must state the
        licence of the weights.
    repo_id : str
        ``owner/name`` on the Hub. It is created if it does not exist.
    private : bool
        Whether only you may read it. An existing repository that is public is
        then refused.
    token : str
        Your access token; None for the one that was saved by logging in.
    revision : str
        The branch; None for the main branch. It is created if it does not
        exist.
    message : str
        Message of the commit.

    Returns
    -------
    str
        The address of the model.

    Raises
    ------
    FileNotFoundError
        If a file of the folder or the model card is missing.
    ValueError
        If the folder is refused or damaged, the licence is not stated or
        ``private`` does not hold.
    OSError
        If the Hub cannot be reached or refuses the upload.

    Example
    -------
    >>> push("no/such/folder", "owner/name")
    Traceback (most recent call last):
    FileNotFoundError: The pretrained folder no/such/folder has no hyper...
    """
    folder, repo_id = pathlib.Path(folder), repo_id.removeprefix(HUB)
    names = folder_names(folder)
    api = huggingface_hub.HfApi(token=token)
    if token is None and huggingface_hub.get_token() is None:
        raise OSError(
            f"{folder} cannot be pushed without an access token; log in with "
            "`hf auth login`, or set the environment variable HF_TOKEN."
        )
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        info = api.model_info(repo_id)
        if private and not info.private:
            raise ValueError(
                "it is public, but `private` is True; make it private on the "
                "Hub, or choose another name"
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
            info = api.model_info(repo_id, revision=revision)
        adds = [CommitOperationAdd(name, folder / name) for name in names]
        old = sorted(_pushed_before(api, info, names).difference(names))
        api.create_commit(
            repo_id,
            adds + [CommitOperationDelete(name) for name in old],
            commit_message=message or "Pretrained speaker encoder",
            revision=revision,
        )
    except HUB_ERRORS as error:
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(
            f"{folder} cannot be pushed to {repo_id} ({hub_words(error)})."
        ) from error
    logger.info(f"{folder}: {len(names)} files were pushed to {url}.")
    return str(url)


def _pushed_before(api, info, names):
    """Names of files on the Hub that are of a pretrained folder."""
    there = {one.rfilename for one in info.siblings or ()}
    known = {*TEXTS, COHORT}
    for name in filter(WEIGHTS.fullmatch, names):  # their other form
        stem = name.rpartition(".")[0]
        known |= {f"{stem}.ckpt", f"{stem}.safetensors"}
    if SUMS in there:
        path = api.hf_hub_download(info.id, SUMS, revision=info.sha)
        with contextlib.suppress(ValueError):  # damaged; it is replaced
            sealed = there & sealed_names(pathlib.Path(path).parent)
            known.update(filter(WEIGHTS.fullmatch, sealed))
    return there & known


def pull(repo_id, folder=None, *, revision=None, token=None, offline=False):
    """Downloads a pretrained folder from the Hugging Face Hub.

    Only files that a pretrained folder can have are downloaded: no scripts,
    and no ``.ckpt`` whose weights are there as safetensors. Nothing in the
    folder is run; load it without trust, see ``SpeakerVerifier.from_folder``.

    Arguments
    ---------
    repo_id : str
        ``owner/name`` on the Hub.
    folder : str | pathlib.Path
        Where to put the files. Your own files in it are kept. None for the
        Hub's cache.
    revision : str
        A branch, tag or commit; None for the main branch.
    token : str
        Your access token; None for the one that was saved by logging in.
    offline : bool
        Whether to use only the Hub's cache. The environment variable
        ``HF_HUB_OFFLINE=1`` means the same.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    FileExistsError
        If ``folder`` cannot be replaced, see ``require_exportable``.
    OSError
        If the model cannot be downloaded, or is not in the cache.
    ValueError
        If a file is damaged or refused.

    Example
    -------
    >>> pull("owner/no-such-model", offline=True)
    Traceback (most recent call last):
    OSError: hf:owner/no-such-model cannot be used (it is not in the cache...
    """
    if folder is not None:
        require_exportable(folder, card=True)
    repo_id = repo_id.removeprefix(HUB)
    cached = download_pretrained(repo_id, revision, token, offline)
    names = pretrained_names(os.listdir(cached))
    flaw = seal_flaw(cached, [n for n in names if n in sealed_names(cached)])
    if flaw:
        raise ValueError(
            f"{HUB}{repo_id} is not as it was exported: {flaw}; ask its "
            "author to push it again."
        )
    if folder is None:
        return cached
    folder = pathlib.Path(folder)
    with new_folder(folder) as made:
        for name in names:
            with atomic_path(os.path.join(made, name)) as temporary:
                shutil.copyfile(cached / name, temporary)
        keep_measured(folder, pathlib.Path(made))
    return folder


def folder_names(folder):
    """Checks a pretrained folder and names its files for the Hub.

    Arguments
    ---------
    folder : pathlib.Path
        The folder.

    Returns
    -------
    list of str
        Names of the files to push. Other files in the folder are left out.

    Raises
    ------
    FileNotFoundError
        If a file of the folder or the model card is missing.
    OSError
        If a file cannot be read.
    ValueError
        If the folder is refused without trust, a file is a link or differs
        from its checksum, or the licence of the weights is not stated.

    Example
    -------
    >>> folder_names(pathlib.Path("no/such/folder"))
    Traceback (most recent call last):
    FileNotFoundError: The pretrained folder no/such/folder has no hyper...
    """
    load_folder(folder)
    pretrainer = read_yaml(folder / "hyperparams.yaml")["pretrainer"]
    ours = {name for name in sealed_names(folder) if WEIGHTS.fullmatch(name)}
    ours |= {*TEXTS, COHORT}
    found = {*os.listdir(folder)}
    for module in pretrainer["loadables"]:
        files = {f"{module}.{end}" for end in ("ckpt", "safetensors", "txt")}
        if not files & found:
            raise FileNotFoundError(
                f"{folder} has no {module}.ckpt; export the folder again."
            )
        ours |= files
    names = sorted(ours & found)
    for name in names:
        if (folder / name).is_symlink():
            raise ValueError(
                f"{folder / name} is a link; replace it by the file."
            )
    flaw = seal_flaw(folder, [n for n in names if n in sealed_names(folder)])
    if flaw:
        raise ValueError(
            f"{folder} is not as it was exported: {flaw}; export it again."
        )
    _require_license(folder / CARD)
    return names


def _require_license(card):
    """Raises unless a model card states the licence of the weights."""
    if not card.is_file():
        raise FileNotFoundError(
            f"{card} does not exist; a model on the Hub needs a model card "
            "with the licence of its weights. Export the folder again."
        )
    if card_license(card) is None:
        raise ValueError(
            f"{card} does not state the licence of the weights; write it after "
            "`license:` in its first lines, for example `license: cc-by-4.0`."
        )
