"""Simulated label noise with options from a YAML, such as an encoder."""

import contextlib
import pathlib

import torch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.label_noise import corrupt_labels, write_corrupted
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.inference.embedding import embed_batches
from speechbrain_ext.inference.loading import load_encoder
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.utils.seed import stable_seed

logger = get_logger(__name__)

# Valid keys of a recipe's `label_noise`
KEYS = ["kind", "rate", "seed", "exact", "outside", "parts", "by"]
KEYS += ["embeddings_from"]


def noise_options(options, seed):
    """Checks the options of label noise from a YAML or the command line.

    Arguments
    ---------
    options : dict
        ``kind`` and ``rate``, optionally ``seed`` and the options of
        ``corrupt_labels``. Paths replace two of them: ``outside`` is a
        manifest, and ``embeddings_from`` is a pretrained folder whose
        embeddings determine the nearest speakers.
    seed : int
        Seed of the run, the default for ``seed``.

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
    if not isinstance(options, dict):
        raise ValueError(
            "`label_noise` must be a mapping such as {kind: symmetric, rate: "
            f"0.3}}, got {options!r}."
        )
    for key in options:
        if key not in KEYS:
            raise ValueError(
                f"`label_noise` has an unknown key {key!r}; valid keys are "
                f"{', '.join(KEYS)}."
            )
    for key in ("kind", "rate"):
        if key not in options:
            raise ValueError(
                f"`label_noise` lacks '{key}'; it must be a mapping such as "
                "{kind: symmetric, rate: 0.3}."
            )
    for key in ("outside", "embeddings_from"):
        if not isinstance(options.get(key, ""), (str, pathlib.PurePath)):
            raise ValueError(
                f"`{key}` of `label_noise` must be a path, got "
                f"{options[key]!r}."
            )
    if "embeddings_from" in options and options["kind"] != "pair":
        raise ValueError(
            "`embeddings_from` is valid only with kind 'pair', got kind "
            f"{options['kind']!r}; leave it out."
        )
    return {"seed": seed, **options}


def noisy_manifest(manifest, label_noise, seed, device="cpu"):
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

    Returns
    -------
    manifest : pandas.DataFrame
        The manifest with corrupted labels, see ``corrupt_labels``.
    report : dict
        What was corrupted, see ``corrupt_labels``.

    Raises
    ------
    FileNotFoundError
        If a manifest or a pretrained folder does not exist.
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
    options = noise_options(label_noise, seed)
    encoder = options.pop("embeddings_from", None)
    if encoder is not None:
        options["embeddings"] = speaker_means(encoder, manifest, device)
    if "outside" in options:
        options["outside"] = read_manifest(options["outside"])
    noisy, report = corrupt_labels(manifest, **options)
    if encoder is not None:
        report["options"]["embeddings_from"] = str(encoder)
    return noisy, report


def training_manifest(save_folder, label_noise, seed, device="cpu"):
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
    manifest = read_manifest(path)
    if label_noise is None or label_noise is False:
        return manifest, path
    manifest, report = noisy_manifest(manifest, label_noise, seed, device)
    path = path.with_name("train_noisy.csv")
    if if_main_process():
        write_corrupted(manifest, report, path)
    else:  # rounding on a GPU may change which speaker is the nearest
        manifest["spk_id"] = read_manifest(path)["spk_id"].to_numpy()
    logger.info(
        f"Label noise: {report['corrupted']} of {report['utterances']} labels "
        f"are wrong ({100 * report['rate_reached']:.2f} %)."
    )
    return manifest, path


def speaker_means(folder, manifest, device="cpu", utterances=5, num_workers=0):
    """Computes the mean embedding of each speaker from a few utterances.

    Arguments
    ---------
    folder : str
        Pretrained folder of the encoder.
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
    """
    if not pathlib.Path(folder, "hyperparams.yaml").is_file():
        raise FileNotFoundError(
            f"{folder} has no hyperparams.yaml; pass the pretrained folder of "
            "an encoder."
        )
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
