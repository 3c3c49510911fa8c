"""Model cards: the README.md of a pretrained folder, in the Hub's form."""

import importlib.metadata
import pathlib

import huggingface_hub
import yaml
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.experiment import git_commit
from speechbrain_ext.utils.files import atomic_write
from speechbrain_ext.utils.journal import is_own
from speechbrain_ext.utils.report import results_table
from speechbrain_ext.utils.values import tag_of
from speechbrain_ext.utils.yaml_files import parse_yaml

logger = get_logger(__name__)

NO_LICENSE = ("", "unknown", "none")
FIGURES = "<!-- figures -->", "<!-- end of figures -->"
FRONT_MATTER = """\
---
library_name: speechbrain
license: {license}
tags:
- speechbrain
- speaker-verification
- speaker-recognition
- speaker-embeddings
metrics:
- eer
- min_dcf
---

"""
USE = """\
Loading it needs the Python package `speechbrain_ext` beside SpeechBrain. If you
do not have the package, ask the author of this folder where to get it. Then:

    from speechbrain_ext.inference.speaker import SpeakerVerifier
    verifier = SpeakerVerifier.from_folder("path/of/this/folder")
    print(verifier.verify_files("one.wav", "other.wav"))

This runs no code of the folder. SpeechBrain's own interface may run some, so
use it only if you trust the author:

    from speechbrain.inference.speaker import SpeakerRecognition
    SpeakerRecognition.from_hparams(source="path/of/this/folder")
"""
CARD = """\
# {network}

A speaker encoder for SpeechBrain: it turns speech into an embedding of
{embedding_size} numbers. Embeddings of the same speaker have a high cosine.

{use}
| | |
|---|---|
| network | {network} |
| front end | {front_end} |
| sample rate | {sample_rate} Hz |
| classifier | {classifier}, {classes} classes |
| loss | {loss} |
| epochs | {epochs} |
| seed | {seed} |
| licence of the weights | {license} |

## Data

{data} The names of the training speakers are in `label_encoder.ckpt`.

## Recipe

`recipe.yaml` has all settings of the training, without the paths of the
machine.

## Figures

{start}
Not verified yet. `speaker_verification_cosine.py` writes the figures here.
{end}

## Limits

- The figures hold for data like the trials. Measure on your own data.
- The calibration holds for the domain that it was fitted on.
- Signals without speech, or shorter than 0.1 s, are refused.
- An embedding identifies a person; handle it as personal data.

## Provenance

Written by speechbrain_ext {versions}, Git commit {commit}.
"""


def card_license(path):
    """The licence of the weights that a model card states.

    Arguments
    ---------
    path : str | pathlib.Path
        The card.

    Returns
    -------
    str
        The licence; None if the card states none.

    Raises
    ------
    ValueError
        If the first lines of the card are not YAML.

    Example
    -------
    >>> path = getfixture("tmp_path") / "README.md"
    >>> _ = path.write_text(front_matter("cc-by-4.0"))
    >>> card_license(path)
    'cc-by-4.0'
    """
    try:
        block = huggingface_hub.metadata_load(path)
    except (ValueError, yaml.YAMLError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"{path} must begin with YAML between two lines of `---`: {reason}."
        ) from error
    stated = block.get("license") if isinstance(block, dict) else None
    stated = str(stated or "").strip()
    return None if stated.lower() in NO_LICENSE else stated


def front_matter(license=None):
    """The block of a card that the Hub reads.

    Arguments
    ---------
    license : str
        Licence of the weights, as the Hub names it; None if it is not stated.

    Returns
    -------
    str
        YAML between two lines of dashes.

    Example
    -------
    >>> front_matter("cc-by-4.0").splitlines()[2]
    'license: cc-by-4.0'
    """
    return FRONT_MATTER.format(license=license or "unknown")


def data_sentence(manifest):
    """Describes training data for a model card.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns duration (seconds) and spk_id, and spk_id_clean if the true
        labels are known.

    Returns
    -------
    str
        A sentence.

    Example
    -------
    >>> import pandas as pd
    >>> data_sentence(pd.DataFrame({"duration": [3600], "spk_id": ["a"]}))
    'It was trained on 1 utterances (1.0 hours) of 1 speakers.'
    """
    hours = manifest["duration"].sum() / 3600
    said = (
        f"It was trained on {len(manifest)} utterances ({hours:.1f} hours) of "
        f"{manifest['spk_id'].nunique()} speakers."
    )
    if "spk_id_clean" in manifest:
        wrong = (manifest["spk_id"] != manifest["spk_id_clean"]).mean()
        said += f" {100 * wrong:.1f} % of the labels were wrong."
    return said


def model_card(
    recipe, classes, embedding_size, data=None, weights_license=None
):
    """Writes the card of a trained encoder from its recipe.

    Arguments
    ---------
    recipe : str
        The resolved recipe as YAML.
    classes : int
        Number of classes of the classifier.
    embedding_size : int
        Size of the embeddings.
    data : str
        A sentence on the training data; None if nothing is known.
    weights_license : str
        Licence of the weights; None if it is not stated.

    Returns
    -------
    str
        The text of the README.md, without figures.

    Example
    -------
    >>> card = model_card("embedding_model: !new:a.ResNet", 2, 8)
    >>> "# ResNet" in card, "| licence of the weights | not stated |" in card
    (True, True)
    """
    blocks = parse_yaml(recipe, "recipe") or {}

    def kind(key):
        tag = tag_of(blocks[key]) if key in blocks else None
        return (tag or "not stated").rpartition(".")[2]

    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("speechbrain", "torch")
    )
    return front_matter(weights_license) + CARD.format(
        network=kind("embedding_model"),
        use=USE,
        embedding_size=embedding_size,
        front_end=kind("compute_features"),
        sample_rate=blocks.get("sample_rate", 16000),
        classifier=kind("classifier"),
        classes=classes,
        loss=kind("loss"),
        epochs=blocks.get("number_of_epochs", "not stated"),
        seed=blocks.get("seed", "not stated"),
        license=weights_license or "not stated",
        data=data or "The training data is not stated.",
        start=FIGURES[0],
        end=FIGURES[1],
        versions=f"with {versions}",
        commit=git_commit(),
    )


def add_figures(folder, results, tables=()):
    """Writes the figures of a verification into the card of a folder.

    A card that this project did not write, or that has been changed, is left
    alone, with a warning.

    Arguments
    ---------
    folder : str | pathlib.Path
        The pretrained folder.
    results : list of dict
        Rows of results.json.
    tables : iterable
        Captions and tables by condition in turn, see ``condition_tables``.

    Raises
    ------
    OSError
        If the card cannot be written.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with atomic_write(folder / "README.md") as stream:
    ...     _ = stream.write(f"Figures\\n{FIGURES[0]}\\nnone\\n{FIGURES[1]}\\n")
    >>> add_figures(folder, [{"scoring": "cosine", "EER %": 1.5}])
    >>> "| cosine | 1.50 |" in (folder / "README.md").read_text()
    True
    """
    path = pathlib.Path(folder, "README.md")
    if not is_own(path):
        if path.is_file():
            logger.warning(
                f"{path} was changed, or is your own, so the figures in it "
                "are left as they are; results.json has the new ones."
            )
        return
    text = path.read_text(encoding="utf-8")
    before, begun, rest = text.partition(FIGURES[0])
    _, ended, after = rest.partition(FIGURES[1])
    if not begun or not ended:
        return
    parts = [_markdown(results_table(results))]
    for part in tables:
        parts.append(part if isinstance(part, str) else _markdown(part))
    middle = "\n\n".join(parts)
    with atomic_write(path) as stream:
        stream.write(f"{before}{begun}\n{middle}\n{ended}{after}")


def _markdown(table):
    """A pandas table in Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def _cell(value):
    """A cell, with what Markdown or HTML would read as its own replaced."""
    if isinstance(value, float):
        value = f"{value:.2f}"
    words = " ".join(str(value).split())
    for special, plain in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;")):
        words = words.replace(special, plain)
    return words
