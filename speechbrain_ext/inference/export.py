"""Export of pretrained folders that SpeechBrain's interface can load."""

import functools
import io
import json
import os
import pathlib

import ruamel.yaml
import torch
from speechbrain.utils.logger import get_logger

from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.inference.model_card import model_card
from speechbrain_ext.inference.safe_weights import has_safetensors
from speechbrain_ext.utils.files import atomic_path, atomic_write
from speechbrain_ext.utils.folders import (
    link_or_copy,
    new_folder,
    require_replaceable,
)
from speechbrain_ext.utils.journal import is_own, record_file
from speechbrain_ext.utils.seals import SUMS, checksums

logger = get_logger(__name__)

# Files that belong to the weights; they are kept if the weights are the same
MEASURED = ("calibration.json", "normalization.npz")  # one goes with the other
KEPT = (*MEASURED, "README.md")

HEADER = """\
# A speaker encoder. This folder may be moved. Load it with
#   from speechbrain.inference.speaker import SpeakerRecognition
#   SpeakerRecognition.from_hparams(source="path/of/this/folder")
# The package speechbrain_ext must be installed.
"""

INTERFACE = """\

# Files with another sample rate are resampled to this one
sample_rate: {sample_rate}
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: !ref <sample_rate>

# Raises for signals without speech, such as silence
compute_features: !new:speechbrain_ext.inference.speech.SpeechFeatures
    front_end: !ref <front_end>
    sample_rate: !ref <sample_rate>

mean_var_norm_emb: !new:speechbrain_ext.nnet.normalization.EmbeddingMean
    size: {size}

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
"""


def export_pretrained(
    folder,
    recipe,
    modules,
    label_encoder,
    embedding_size,
    card=None,
    data=None,
    weights_license=None,
):
    """Writes a folder for SpeechBrain's ``from_hparams``.

    An existing folder is replaced atomically. The user's own files in it are
    kept. A calibration, a cohort and a README.md that this project wrote are
    kept if the weights are the same. If nothing changes, nothing is written.
    The folder has no paths in its files, so it may be moved. Beside
    SpeechBrain's files it gets the weights as safetensors (if that package is
    installed), the recipe, checksums and a model card.

    Arguments
    ---------
    folder : str
        The folder to write, ``<output_folder>/pretrained``.
    recipe : str
        The resolved recipe as YAML. Its ``compute_features``,
        ``mean_var_norm``, ``embedding_model``, ``classifier`` and
        ``sample_rate`` (default 16000) are used.
    modules : dict of torch.nn.Module
        ``embedding_model``, ``classifier`` and other modules that fine-tuning
        needs (``loss``). Each is saved to its own file.
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder
        The label map of the classifier.
    embedding_size : int
        Size of the embeddings.
    card : str
        Text of the README.md; None for one made from the recipe. A README.md
        of the user is then left alone.
    data : str
        A sentence on the training data for the model card, or None.
    weights_license : str
        Licence of the weights for the model card; None if it is not stated.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder cannot be replaced, see ``require_exportable``.
    OSError
        If another run is writing to the same folder, or the disk is full.
    """
    folder = pathlib.Path(folder)
    require_exportable(folder, card is not None)
    blocks, sample_rate = _modules_yaml(recipe, len(label_encoder))
    interface = INTERFACE.format(size=embedding_size, sample_rate=sample_rate)
    texts = {"hyperparams.yaml": HEADER + blocks + interface}
    if card is not None:
        texts["README.md"] = card
    tensors = {
        name: {k: v.detach().cpu() for k, v in module.state_dict().items()}
        for name, module in modules.items()
    }
    tensors["mean_var_norm_emb"] = {"mean": torch.zeros(embedding_size)}
    texts["recipe.yaml"] = _without_paths(recipe)
    with new_folder(folder) as made:
        for name, text in texts.items():
            with atomic_write(os.path.join(made, name)) as stream:
                stream.write(text)
        for name, state in tensors.items():
            path = os.path.join(made, f"{name}.ckpt")
            # torch.save would write the path into the file
            with atomic_write(path, "wb") as stream:
                torch.save(state, stream)
            _save_safetensors(os.path.join(made, f"{name}.safetensors"), state)
        path = os.path.join(made, "label_encoder.ckpt")
        with atomic_path(path) as temporary:
            label_encoder.save(temporary)
        made = pathlib.Path(made)
        ours = {"hyperparams.yaml", "label_encoder.ckpt"}
        ours |= {f"{name}.ckpt" for name in tensors}
        ours |= {f"{name}.safetensors" for name in tensors}
        sums = checksums(made, sorted(n for n in ours if (made / n).is_file()))
        with atomic_write(made / SUMS) as stream:
            json.dump(sums, stream)
        keep_measured(folder, made)
        if not os.path.lexists(made / "README.md"):  # neither ours nor theirs
            with atomic_write(made / "README.md") as stream:
                sizes = len(label_encoder), embedding_size
                stream.write(model_card(recipe, *sizes, data, weights_license))
    return folder


def _save_safetensors(path, state):
    """Writes a state dict as safetensors, if that package is installed."""
    if not has_safetensors():
        _say_without_safetensors()
        return
    from safetensors.torch import save

    # tensors that share memory cannot be written
    state = {key: value.clone() for key, value in state.items()}
    with atomic_write(path, "wb") as stream:
        stream.write(save({k: v.contiguous() for k, v in state.items()}))


@functools.cache
def _say_without_safetensors():
    logger.info(
        "The weights are written as .ckpt only. To write them as safetensors "
        "too: pip install safetensors."
    )


def _without_paths(recipe):
    """The recipe; paths of this machine are replaced by null."""
    yaml = ruamel.yaml.YAML()
    tree = yaml.load(recipe)

    def clean(node):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in list(pairs):
            if isinstance(value, (dict, list)):
                clean(value)
            elif isinstance(value, str) and {"/", "\\"} & set(value):
                node[key] = None

    clean(tree)
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()


def require_exportable(folder, card=False):
    """Raises if ``export_pretrained`` cannot replace a folder.

    Call it before a long training. If an export was killed while it replaced
    the folder, that is undone first.

    Arguments
    ---------
    folder : str
        The folder to write; it may be missing.
    card : bool
        Whether a README.md will be written.

    Raises
    ------
    FileExistsError
        If the path is a file or the working directory, or the folder has a
        subfolder, a link, or a file that would be replaced and that this
        project did not write.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "notes.txt").write_text("mine")
    >>> require_exportable(folder)
    >>> _ = (folder / "embedding_model.ckpt").write_text("mine")
    >>> require_exportable(folder)
    Traceback (most recent call last):
    FileExistsError: ...embedding_model.ckpt was not written by this program...
    """
    names = ["hyperparams.yaml", "calibration.json", "*.ckpt"]
    names += ["normalization.npz", "recipe.yaml", SUMS, "*.safetensors"]
    require_replaceable(folder, names + ["README.md"] * card)


def keep_measured(folder, made):
    """Keeps calibration, cohort and card of a folder with the same weights.

    Files that this project did not write, and those that the new folder has
    already, are left alone. Calibration and cohort belong together: if the new
    folder has one of them, it gets neither.

    Arguments
    ---------
    folder : pathlib.Path
        The folder that is replaced; it may be missing.
    made : pathlib.Path
        The new folder, see ``new_folder``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> keep_measured(folder / "missing", folder)
    """
    there = {name for name in KEPT if os.path.lexists(f"{made}/{name}")}
    if there.intersection(MEASURED):
        there.update(MEASURED)
    names = [n for n in KEPT if n not in there and is_own(folder / n)]
    if not names:
        return
    known = (folder / "hyperparams.yaml").is_file()
    if known and model_fingerprint(folder) == model_fingerprint(made):
        for name in names:
            record_file(made, name, folder / name)
            link_or_copy(folder / name, os.path.join(made, name))
        return
    lost = [name for name in names if name != "README.md"]  # it is made anew
    if lost:
        logger.info(
            f"{folder} has new weights. Its old {' and '.join(lost)} did not "
            "belong to them and were removed."
        )


def _modules_yaml(recipe, classes):
    """YAML of the recipe's modules, with the classes, and the sample rate."""
    yaml = ruamel.yaml.YAML()
    blocks = yaml.load(recipe)
    kept = ruamel.yaml.comments.CommentedMap()
    kept["front_end"] = blocks["compute_features"]
    for key in ("mean_var_norm", "embedding_model"):
        kept[key] = blocks[key]
    classifier = blocks["classifier"]
    kind, name = classifier.tag.value.split(":", 1)
    # a tag without arguments is a scalar
    arguments = dict(classifier) if isinstance(classifier, dict) else {}
    if kind == "!name":
        arguments["out_neurons"] = classes
    kept["classifier"] = arguments
    stream = io.StringIO()
    yaml.dump(kept, stream)
    written = stream.getvalue()
    return (
        written.replace("classifier:", f"classifier: !new:{name}"),
        blocks.get("sample_rate", 16000),
    )
