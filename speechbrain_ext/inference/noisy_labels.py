"""Label noise that confuses speakers who sound alike, by an encoder."""

import contextlib
import pathlib

import torch
from speechbrain.inference.classifiers import EncoderClassifier

from speechbrain_ext.dataio.label_noise import corrupt_labels
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.inference.embedding import embed_batches
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.utils.seed import stable_seed

# What a YAML's `label_noise` may hold
KEYS = (
    *("kind", "rate", "seed", "exact", "outside", "parts", "by"),
    "embeddings_from",
)


def noise_options(asked, seed):
    """Checks what a YAML or the command line says of label noise.

    Arguments
    ---------
    asked : dict
        ``kind`` and ``rate``; ``seed`` where it is another than the run's;
        the options of ``corrupt_labels`` with files in the place of tables:
        ``outside`` (a manifest) and ``embeddings_from`` (a pretrained
        folder, whose embeddings tell which speaker is the nearest).
    seed : int
        Seed of the run.

    Returns
    -------
    dict
        The same with a seed.

    Raises
    ------
    ValueError
        If it is no mapping, or a key is missing, unknown or does not fit.

    Example
    -------
    >>> noise_options({"kind": "symmetric", "rate": 0.3}, seed=1986)
    {'seed': 1986, 'kind': 'symmetric', 'rate': 0.3}
    >>> noise_options(5, seed=1986)
    Traceback (most recent call last):
    ValueError: `label_noise` must be a mapping such as {kind: symmetric, \
rate: 0.3}, got 5.
    """
    if not isinstance(asked, dict):
        raise ValueError(
            "`label_noise` must be a mapping such as {kind: symmetric, rate: "
            f"0.3}}, got {asked!r}."
        )
    for key in asked:
        if key not in KEYS:
            raise ValueError(
                f"`label_noise` has an unknown key {key!r}; it takes "
                f"{', '.join(KEYS)}."
            )
    for key in ("kind", "rate"):
        if key not in asked:
            raise ValueError(
                f"`label_noise` lacks '{key}'; it is a mapping such as {{kind: "
                "symmetric, rate: 0.3}."
            )
    for key in ("outside", "embeddings_from"):
        if not isinstance(asked.get(key, ""), (str, pathlib.PurePath)):
            raise ValueError(
                f"`{key}` of `label_noise` must be a path, got {asked[key]!r}."
            )
    if "embeddings_from" in asked and asked["kind"] != "pair":
        raise ValueError(
            "`embeddings_from` goes with kind 'pair' alone, got kind "
            f"{asked['kind']!r}; leave it out."
        )
    return {"seed": seed, **asked}


def noisy_manifest(manifest, asked, seed, device="cpu"):
    """Corrupts labels as a YAML's ``label_noise`` says.

    Arguments
    ---------
    manifest : pandas.DataFrame
        The clean manifest.
    asked : dict
        Kind, rate and options, see ``noise_options``.
    seed : int
        Seed of the run.
    device : str
        Where the encoder of ``embeddings_from`` runs.

    Returns
    -------
    manifest : pandas.DataFrame
        As ``corrupt_labels`` gives it.
    report : dict
        As ``corrupt_labels`` gives it.

    Raises
    ------
    FileNotFoundError
        If a manifest or pretrained folder that is named does not exist.
    ValueError
        If an option is unknown, missing, out of range or does not fit.

    Example
    -------
    >>> import pandas as pd
    >>> names = [f"{s}/x/{u}" for s in "abc" for u in range(4)]
    >>> table = pd.DataFrame({"ID": names, "spk_id": [n[0] for n in names]})
    >>> table["wav"] = table["ID"] + ".wav"
    >>> noisy_manifest(table, {"kind": "merge", "rate": 1}, 1)[1]["corrupted"]
    4
    """
    options = noise_options(asked, seed)
    encoder = options.pop("embeddings_from", None)
    if encoder is not None:
        options["embeddings"] = speaker_means(encoder, manifest, device)
    if "outside" in options:
        options["outside"] = read_manifest(options["outside"])
    noisy, report = corrupt_labels(manifest, **options)
    if encoder is not None:
        report["options"]["embeddings_from"] = str(encoder)
    return noisy, report


def speaker_means(folder, manifest, device="cpu", utterances=5, num_workers=0):
    """Computes a mean embedding of each speaker, from a few utterances.

    Arguments
    ---------
    folder : str
        The pretrained folder of the encoder.
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start, stop and spk_id.
    device : str
        Where the encoder runs.
    utterances : int
        Utterances of a speaker, drawn by their IDs; all where there are fewer.
    num_workers : int
        Processes that read; 0 reads in this one.

    Returns
    -------
    dict
        Maps each speaker to the mean of the embeddings, each of length 1,
        np.ndarray of shape [embedding]. A speaker whose utterances have no
        speech is left out.

    Raises
    ------
    FileNotFoundError
        If the folder is no pretrained folder.
    """
    if not pathlib.Path(folder, "hyperparams.yaml").is_file():
        raise FileNotFoundError(
            f"{folder} has no hyperparams.yaml; name the pretrained folder of "
            "an encoder."
        )
    drawn = [stable_seed("speaker mean", name) for name in manifest["ID"]]
    few = manifest.assign(drawn=drawn).sort_values(["drawn", "ID"])
    few = few.groupby("spk_id").head(utterances).reset_index(drop=True)
    encoder = EncoderClassifier.from_hparams(
        source=str(folder), run_opts={"device": str(device)}
    )
    speakers, sums = few["spk_id"].to_numpy(), {}
    with contextlib.suppress(NoSpeechError):  # raised after all others
        for rows, found in embed_batches(encoder, few, num_workers=num_workers):
            found = torch.nn.functional.normalize(found.double(), dim=1)
            for row, embedding in zip(rows, found.numpy(), strict=True):
                name = speakers[row]
                sums[name] = sums.get(name, 0) + embedding
    counts = few["spk_id"].value_counts()
    return {name: total / counts[name] for name, total in sums.items()}
