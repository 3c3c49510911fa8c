"""Simulated label noise with options from a YAML, such as an encoder."""

import contextlib
import pathlib

import torch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.clusters import read_clusters
from speechbrain_ext.dataio.label_noise import (
    RATELESS,
    check_options,
    corrupt_labels,
    write_corrupted,
)
from speechbrain_ext.dataio.label_noise_kinds import refuse_shared
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.trials import (
    make_trials,
    read_trials,
    write_trials,
)
from speechbrain_ext.inference.embedding import embed_batches
from speechbrain_ext.inference.loading import load_encoder
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.utils.seed import stable_seed

logger = get_logger(__name__)

# Valid keys of a recipe's `label_noise`
KEYS = ["kind", "rate", "seed", "exact", "outside", "parts", "by"]
KEYS += ["embeddings_from", "min_sessions", "clusters", "kinds"]
PATHS = ("outside", "embeddings_from", "clusters")
OWN_NAMES = {"embeddings_from": "embeddings"}  # of ``corrupt_labels``
EXAMPLE = "{kind: symmetric, rate: 0.3}"


def noise_options(options, seed, key="label_noise"):
    """Checks the options of label noise from a YAML or the command line.

    Arguments
    ---------
    options : dict
        ``kind``, ``rate``, optionally ``seed``, and the options of
        ``corrupt_labels``. Paths replace three of them: ``outside`` is a
        manifest, ``clusters`` is a file of ``utterance cluster`` lines, and
        ``embeddings_from`` is a pretrained folder (or ``hf:owner/name``) whose
        embeddings determine the nearest speakers.
    seed : int
        Seed of the run, the default for ``seed``.
    key : str
        The key of the YAML, for errors.

    Returns
    -------
    dict
        The options with a seed.

    Raises
    ------
    ValueError
        If ``options`` is not a mapping, or a key is missing, unknown or has a
        value that is not valid.

    Example
    -------
    >>> noise_options({"kind": "symmetric", "rate": 0.3}, seed=1986)
    {'seed': 1986, 'kind': 'symmetric', 'rate': 0.3}
    >>> noise_options(5, seed=1986)
    Traceback (most recent call last):
    ValueError: `label_noise` must be a mapping such as {kind: symmetric, \
rate: 0.3}, got 5.
    """
    _check_block(options, key)
    if options["kind"] == "mixture" and isinstance(options.get("kinds"), list):
        for part in options["kinds"]:
            _check_block(part, f"kinds` of `{key}")
    given = _renamed({"seed": seed, "rate": None, **options})
    check_options(*map(given.pop, ("kind", "rate", "seed")), given)
    return {"seed": seed, **options}


def _renamed(options):
    """Options of a YAML by the names that ``corrupt_labels`` has for them."""
    found = {OWN_NAMES.get(name, name): v for name, v in options.items()}
    if isinstance(found.get("kinds"), list):
        found["kinds"] = [_renamed(part) for part in found["kinds"]]
    return found


def check_label_noise(label_noise, dev_label_noise, dev_speakers, seed):
    """Raises where a recipe's label noise is not valid, before any work.

    Arguments
    ---------
    label_noise : dict
        The recipe's ``label_noise``, see ``noise_options``; None for no noise.
    dev_label_noise : dict
        The recipe's ``dev_label_noise``; None for no noise.
    dev_speakers : int
        Number of development speakers.
    seed : int
        Seed of the run.

    Raises
    ------
    ValueError
        If an option is unknown, missing or out of range, or if there are no
        development speakers for ``dev_label_noise``.

    Example
    -------
    >>> check_label_noise(None, {"kind": "symmetric", "rate": 0.3}, 0, 1)
    Traceback (most recent call last):
    ValueError: `dev_label_noise` needs development speakers, but ...
    """
    if _asked(label_noise):
        noise_options(label_noise, seed)
    if not _asked(dev_label_noise):
        return
    if not dev_speakers:
        raise ValueError(
            "`dev_label_noise` needs development speakers, but "
            "`dev_speakers` is 0; set it, or leave `dev_label_noise` out."
        )
    noise_options(dev_label_noise, seed, "dev_label_noise")


def _asked(label_noise):
    """Whether a recipe asks for label noise."""
    return label_noise is not None and label_noise is not False


def _check_block(options, key):
    """Raises where a block of options is not valid."""
    if not isinstance(options, dict):
        raise ValueError(
            f"`{key}` must be a mapping such as {EXAMPLE}, got {options!r}."
        )
    for name in options:
        if name not in KEYS:
            raise ValueError(
                f"`{key}` has an unknown key {name!r}; valid keys are "
                f"{', '.join(KEYS)}."
            )
    rateless = options.get("kind") in RATELESS
    for name in ("kind",) if rateless else ("kind", "rate"):
        if name not in options:
            raise ValueError(
                f"`{key}` lacks '{name}'; it must be a mapping such as "
                f"{EXAMPLE}."
            )
    for name in PATHS:
        if not isinstance(options.get(name, ""), (str, pathlib.PurePath)):
            raise ValueError(
                f"`{name}` of `{key}` must be a path, got {options[name]!r}."
            )
    if "embeddings_from" in options and options["kind"] != "pair":
        raise ValueError(
            "`embeddings_from` is valid only with kind 'pair', got kind "
            f"{options['kind']!r}; leave it out."
        )


def noisy_manifest(
    manifest, label_noise, seed, device="cpu", key="label_noise"
):
    """Corrupts the labels of a manifest with the options of a YAML.

    Arguments
    ---------
    manifest : pandas.DataFrame
        The clean manifest.
    label_noise : dict
        Kind, rate and options, see ``noise_options``.
    seed : int
        Seed of the run.
    device : str
        Device of the encoder of ``embeddings_from``.
    key : str
        The key of the YAML, for errors.

    Returns
    -------
    manifest : pandas.DataFrame
        The manifest with corrupted labels, see ``corrupt_labels``.
    report : dict
        What was corrupted, see ``corrupt_labels``.

    Raises
    ------
    FileNotFoundError
        If a manifest, a file of clusters or a pretrained folder does not
        exist.
    ValueError
        If an option is unknown, missing or not valid.

    Example
    -------
    >>> import pandas as pd
    >>> names = [f"{s}/x/{u}" for s in "abc" for u in range(4)]
    >>> table = pd.DataFrame({"ID": names, "spk_id": [n[0] for n in names]})
    >>> table["wav"] = table["ID"] + ".wav"
    >>> noisy_manifest(table, {"kind": "merge", "rate": 1}, 1)[1]["corrupted"]
    4
    """
    options = noise_options(label_noise, seed, key)
    loaded = _loaded(options, manifest, device)
    noisy, report = corrupt_labels(manifest, **loaded)
    parts = zip(
        [report, *report.get("kinds", ())],
        [options, *(options.get("kinds") or ())],
        strict=True,
    )
    for made, asked in parts:
        for name in PATHS:
            if name in asked:
                made["options"][name] = str(asked[name])
    return noisy, report


def _loaded(options, manifest, device):
    """The options of ``corrupt_labels``, with files read and embeddings."""
    options = dict(options)
    if "embeddings_from" in options:
        encoder = options.pop("embeddings_from")
        options["embeddings"] = speaker_means(encoder, manifest, device)
    if "outside" in options:
        options["outside"] = read_manifest(options["outside"])
    if "clusters" in options:
        ids = set(manifest["ID"])
        options["clusters"] = read_clusters(options["clusters"], ids)
    if isinstance(options.get("kinds"), list):
        options["kinds"] = [
            _loaded(part, manifest, device) for part in options["kinds"]
        ]
    return options


def training_manifest(save_folder, label_noise, seed, device="cpu", check=None):
    """Reads the manifest of the training data, and corrupts it if asked to.

    The main process writes the corrupted manifest and its report; it must
    return before other processes call this.

    Arguments
    ---------
    save_folder : str | pathlib.Path
        The folder of ``train.csv``.
    label_noise : dict
        Kind, rate and options, see ``noise_options``; None for no noise.
    seed : int
        Seed of the run.
    device : str
        Where the encoder of ``embeddings_from`` runs.
    check : callable
        Is called with the manifest before it is written; None for no check.

    Returns
    -------
    manifest : pandas.DataFrame
        The manifest to train on.
    path : pathlib.Path
        Its file: ``train.csv`` or ``train_noisy.csv``.

    Raises
    ------
    FileNotFoundError
        If a manifest or pretrained folder that is named does not exist.
    ValueError
        If an option is unknown, missing, out of range or does not fit.
    """
    path = pathlib.Path(save_folder, "train.csv")
    return _corrupted(path, label_noise, seed, device, "label_noise", check)


def development_data(
    save_folder, speakers, trials, label_noise, seed, device="cpu"
):
    """Reads the development utterances and trials, with noise if asked to.

    With noise, the trials are drawn anew from the noisy labels, as a person
    would who does not know the true ones. The main process writes them; it
    must return before other processes call this.

    Arguments
    ---------
    save_folder : str | pathlib.Path
        The folder of ``dev.csv`` and ``dev_trials.txt``.
    speakers : int
        Number of development speakers; 0 for none.
    trials : int
        Number of development trials.
    label_noise : dict
        The recipe's ``dev_label_noise``, see ``noise_options``; None for no
        noise.
    seed : int
        Seed of the run.
    device : str
        Where the encoder of ``embeddings_from`` runs.

    Returns
    -------
    manifest : pandas.DataFrame
        The development utterances.
    trials : pandas.DataFrame
        Columns enrol, test and target.

    None, without development speakers.

    Raises
    ------
    FileNotFoundError
        If a manifest or pretrained folder that is named does not exist.
    ValueError
        If an option is unknown, missing, out of range or does not fit.
    """
    check_label_noise(None, label_noise, speakers, seed)
    if not speakers:
        return None
    path = pathlib.Path(save_folder, "dev.csv")
    manifest, _ = _corrupted(path, label_noise, seed, device, "dev_label_noise")
    path = path.with_name("dev_trials.txt")
    if _asked(label_noise):
        path = path.with_name("dev_trials_noisy.txt")
        if if_main_process():
            write_trials(make_trials(manifest, trials, seed), path)
    return manifest, read_trials(path, literal=set(manifest.ID))


def _corrupted(path, label_noise, seed, device, key, check=None):
    """A manifest, corrupted if asked to, and the file that it is in."""
    if not _asked(label_noise):
        manifest = read_manifest(path)
        if check is not None:
            check(manifest)
        _say_wrong(manifest, path)
        return manifest, path
    noisy = path.with_name(f"{path.stem}_noisy.csv")
    if not if_main_process():
        return read_manifest(noisy), noisy
    manifest = read_manifest(path)
    _refuse_held_out(path, label_noise, key)
    manifest, report = noisy_manifest(manifest, label_noise, seed, device, key)
    if check is not None:
        check(manifest)
    write_corrupted(manifest, report, noisy, f"{key}.json")
    logger.info(
        f"`{key}`: {report['corrupted']} of {report['utterances']} labels "
        f"in {noisy.name} are wrong ({100 * report['rate_reached']:.2f} %)."
    )
    return manifest, noisy


def _refuse_held_out(path, label_noise, key):
    """Raises where `outside` has what another manifest of the run has.

    Utterances of the trials, or of the development speakers, would be trained
    on; or those that are trained on would be in the development trials.
    """
    block = noise_options(label_noise, 0, key)
    for options in (block, *(block.get("kinds") or ())):
        if "outside" not in options:
            continue
        outside = read_manifest(options["outside"])
        for name in ("train.csv", "dev.csv", "test.csv"):
            other = path.with_name(name)
            if other != path and other.exists():
                what = f"{other} (which `{key}` must not use)"
                refuse_shared(outside, read_manifest(other), what)


def _say_wrong(manifest, path):
    """Warns of the labels that are wrong in a list that was given."""
    if "spk_id_clean" not in manifest:
        return
    wrong = int((manifest["spk_id"] != manifest["spk_id_clean"]).sum())
    if wrong and if_main_process():
        logger.warning(
            f"{wrong} of {len(manifest)} labels in {path.name} are wrong "
            "(spk_id is not spk_id_clean). They are used as they are."
        )


def speaker_means(folder, manifest, device="cpu", utterances=5, num_workers=0):
    """Computes the mean embedding of each speaker from a few utterances.

    Arguments
    ---------
    folder : str
        Pretrained folder of the encoder, or ``hf:owner/name``. No code of the
        folder is run, see ``loading.load_encoder``.
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start, stop and spk_id.
    device : str
        Device of the encoder.
    utterances : int
        Largest number of utterances per speaker, chosen by a hash of the ID.
    num_workers : int
        Number of processes that read audio; 0 for this process.

    Returns
    -------
    dict
        Maps each speaker to the mean of the normalized embeddings, np.ndarray
        of shape [embedding]. Speakers without an utterance that has speech
        are left out.

    Raises
    ------
    FileNotFoundError
        If the folder is not a pretrained folder.
    OSError
        If a model on the Hub cannot be downloaded.
    ValueError
        If the folder needs code that is not trusted, or does not fit.
    """
    drawn = [stable_seed("speaker mean", name) for name in manifest["ID"]]
    few = manifest.assign(drawn=drawn).sort_values(["drawn", "ID"])
    few = few.groupby("spk_id").head(utterances).reset_index(drop=True)
    encoder = load_encoder(folder, {"device": str(device)})
    speakers, sums = few["spk_id"].to_numpy(), {}
    with contextlib.suppress(NoSpeechError):  # raised after the last batch
        for rows, found in embed_batches(encoder, few, num_workers=num_workers):
            found = torch.nn.functional.normalize(found.double(), dim=1)
            for row, embedding in zip(rows, found.numpy(), strict=True):
                name = speakers[row]
                sums[name] = sums.get(name, 0) + embedding
    counts = few["spk_id"].value_counts()
    return {name: total / counts[name] for name, total in sums.items()}
