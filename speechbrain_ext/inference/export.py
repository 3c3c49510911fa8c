"""Pretrained folders that SpeechBrain's own interface loads."""

import io
import os
import pathlib
import shutil

import ruamel.yaml
import torch
from speechbrain.dataio.encoder import CategoricalEncoder

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


def load_pretrained(folder, modules, label_encoder):
    """Loads what training exported, to go on from.

    The rows of a head are matched by the speakers' names; a speaker that the
    exported head lacks keeps the row that was drawn.

    Arguments
    ---------
    folder : str
        The folder that ``export_pretrained`` wrote.
    modules : dict of torch.nn.Module
        The modules to load into, by their names there.
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder
        The label map of the modules.

    Returns
    -------
    int
        The classes whose rows were taken.

    Raises
    ------
    ValueError
        If a module does not fit what was exported.
    """
    known = CategoricalEncoder()
    known.load(pathlib.Path(folder, "label_encoder.ckpt"))
    for name, module in modules.items():
        path = pathlib.Path(folder, f"{name}.ckpt")
        state = torch.load(path, map_location="cpu")
        if known.lab2ind != label_encoder.lab2ind:
            own = module.state_dict()
            for key in state.keys() & own.keys():
                if name == "classifier" or key.startswith("classifier."):
                    state[key] = _by_speaker(
                        *(state[key], own[key], known, label_encoder),
                        getattr(module, "shard", None),
                    )
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"{path} does not fit the recipe's {name}: "
                f"{' '.join(str(error).split())} Start from a run of the same "
                "network and loss."
            ) from error
    return len(known.lab2ind.keys() & label_encoder.lab2ind.keys())


def _by_speaker(old, own, known, label_encoder, shard=None):
    """A head's rows with those of the speakers that another knows."""
    if old.shape[1:] != own.shape[1:]:
        return old  # which will not load
    first, stop = 0, len(label_encoder)
    if shard is not None:
        first, stop = shard.first, shard.stop
    pairs = [
        (number - first, known.lab2ind[label_encoder.ind2lab[number]])
        for number in range(first, stop)
        if label_encoder.ind2lab[number] in known.lab2ind
    ]
    # [classes, rows of a class, ...]
    matched = own.detach().cpu().clone().unflatten(0, (stop - first, -1))
    if pairs:
        here, there = torch.tensor(pairs).T
        matched[here] = old.unflatten(0, (len(known), -1))[there]
    return matched.flatten(0, 1)


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
