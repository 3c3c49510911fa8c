"""Pretrained folders that SpeechBrain's own interface loads."""

import io
import os
import pathlib
import shutil

import ruamel.yaml
import torch

HEADER = """\
# A speaker encoder. Load it, wherever this folder lies, with
#   from speechbrain.inference.speaker import SpeakerRecognition
#   SpeakerRecognition.from_hparams(source="path/of/this/folder")
# The package speechbrain_ext must be installed.
"""

INTERFACE = """\

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
    folder, recipe, modules, label_encoder, embedding_size, card=None
):
    """Writes a folder for SpeechBrain's ``from_hparams``.

    The folder is made beside and renamed, so that a folder that was there
    is whole until the new one takes its place. No path is written into it:
    SpeechBrain finds each file beside the YAML, wherever the folder lies.

    Arguments
    ---------
    folder : str
        The folder to write, ``<output_folder>/pretrained``.
    recipe : str
        The recipe's YAML, resolved: its ``compute_features``,
        ``mean_var_norm``, ``embedding_model`` and ``classifier`` are taken.
    modules : dict of torch.nn.Module
        ``embedding_model`` and ``classifier``, which are loaded, and whatever
        else fine-tuning is to go on with (``loss``), each in a file.
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder
        The label map of the head.
    embedding_size : int
        Size of the embeddings.
    card : str
        Text of a README.md in the folder, or None.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    folder = pathlib.Path(folder)
    made = folder.with_name(f".{folder.name}-new")
    old = folder.with_name(f".{folder.name}-old")
    for left_over in (made, old):
        shutil.rmtree(left_over, ignore_errors=True)
    made.mkdir(parents=True)
    hyperparams = HEADER + _modules_yaml(recipe, len(label_encoder))
    hyperparams += INTERFACE.format(size=embedding_size)
    (made / "hyperparams.yaml").write_text(hyperparams, encoding="utf-8")
    mean = {"mean": torch.zeros(embedding_size)}
    for name, module in modules.items():
        torch.save(module.state_dict(), made / f"{name}.ckpt")
    torch.save(mean, made / "mean_var_norm_emb.ckpt")
    label_encoder.save(made / "label_encoder.ckpt")
    if card is not None:
        (made / "README.md").write_text(card, encoding="utf-8")
    if folder.exists():
        os.replace(folder, old)
    os.replace(made, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load_pretrained(folder, modules):
    """Loads what training exported, to go on from.

    Arguments
    ---------
    folder : str
        The folder that ``export_pretrained`` wrote.
    modules : dict of torch.nn.Module
        The modules to load into, by their names there.

    Raises
    ------
    ValueError
        If a module does not fit what was exported.
    """
    for name, module in modules.items():
        path = pathlib.Path(folder, f"{name}.ckpt")
        try:
            module.load_state_dict(torch.load(path, map_location="cpu"))
        except RuntimeError as error:
            raise ValueError(
                f"{path} does not fit the recipe's {name}: "
                f"{' '.join(str(error).split())} Start from a run of the same "
                "network and loss."
            ) from error


def _modules_yaml(recipe, classes):
    """The recipe's blocks of the modules, the number of classes filled in."""
    yaml = ruamel.yaml.YAML()
    blocks = yaml.load(recipe)
    kept = ruamel.yaml.comments.CommentedMap()
    for key in ("compute_features", "mean_var_norm", "embedding_model"):
        kept[key] = blocks[key]
    classifier = blocks["classifier"]
    kind, name = classifier.tag.value.split(":", 1)
    # a scalar where the tag has no arguments
    arguments = dict(classifier) if isinstance(classifier, dict) else {}
    if kind == "!name":
        arguments["out_neurons"] = classes
    kept["classifier"] = arguments
    stream = io.StringIO()
    yaml.dump(kept, stream)
    return stream.getvalue().replace("classifier:", f"classifier: !new:{name}")
