"""How an encoder was trained, as far as its folder tells."""

import pathlib

import ruamel.yaml

MOST_LETTERS = 300  # of a value
DEEPEST = 4  # blocks within blocks; a YAML may hold itself

# Keys of a training's YAML, what a report calls them, and their unit
PLAIN = (
    ("number_of_epochs", "epochs", ""),
    ("batch_size", "batch size (global)", ""),
    ("sentence_len", "crop", "s"),
    ("speeds", "speeds", ""),
    ("seed", "seed", ""),
)


def training_settings(pretrained_folder):
    """Reads the settings of a training: network, loss, epochs, seed, ...

    The network is told by the encoder's own ``hyperparams.yaml``, the rest by
    that of the training, which lies one folder above where the encoder was
    left in place. Nothing is built, so that the files may come from anyone.

    Arguments
    ---------
    pretrained_folder : str | pathlib.Path
        The encoder's folder.

    Returns
    -------
    dict
        Maps names to values, both as text. Names of folders are given without
        the path to them. Where the training is not known, ``training`` says
        why.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "run" / "pretrained"
    >>> folder.mkdir(parents=True)
    >>> _ = (folder / "hyperparams.yaml").write_text(
    ...     "embedding_model: !new:models.ResNet\\n    channels: 32\\n"
    ... )
    >>> training_settings(folder)["network"]
    'ResNet (channels 32)'
    """
    folder = pathlib.Path(pretrained_folder).absolute()
    found = {"encoder": "/".join(folder.parts[-2:])}
    encoder, problem = _blocks(folder / "hyperparams.yaml")
    for key, name in (
        ("embedding_model", "network"),
        ("compute_features", "front end"),
    ):
        if key in encoder:
            found[name] = _words(encoder[key])
    classifier = encoder.get("classifier")
    if isinstance(classifier, dict) and "out_neurons" in classifier:
        found["classes"] = _words(classifier["out_neurons"])
    training, other_problem = _blocks(folder.parent / "hyperparams.yaml")
    network = training.get("embedding_model")
    if not network or _words(network) != found.get("network"):
        problem = problem or other_problem
        problem = problem or "the YAML beside the encoder is of another network"
        return {**found, "training": f"not known: {problem}"}
    return {**found, **_training(training)}


def _training(blocks):
    """What the YAML of a training says beside the network."""
    found = {}
    if "loss" in blocks:
        found["loss"] = _words(blocks["loss"])
    final = blocks.get("final_margin")
    if isinstance(blocks.get("loss"), dict) and "margin" in blocks["loss"]:
        if final is not None:
            found["final margin"] = _words(final)
    for key, name, unit in PLAIN:
        if key in blocks:
            found[name] = f"{_words(blocks[key])} {unit}".strip()
    for key, name in (
        ("noise_folder", "noise"),
        ("rir_folder", "reverberation"),
        ("start_from", "started from"),
        ("data_folder", "corpus"),
    ):
        if key in blocks:
            # of several folders, which commas separate, each
            parts = str(blocks[key] or "").split(",")
            names = [pathlib.PurePath(part.strip()).name for part in parts]
            found[name] = _shortened(", ".join(names) or "none")
    if "label_noise" in blocks:
        found["label noise"] = _words(blocks["label_noise"])
    return found


def _blocks(path):
    """The keys of a YAML, and why there are none."""
    name = "/".join(path.parts[-2:])
    if not path.is_file():
        return {}, f"there is no {name}"
    try:
        blocks = ruamel.yaml.YAML().load(path.read_text(encoding="utf-8"))
    except (ruamel.yaml.error.YAMLError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        return {}, f"{name} cannot be read ({_shortened(reason)})"
    except RecursionError:
        return {}, f"{name} is nested too deeply"
    if not isinstance(blocks, dict):
        return {}, f"{name} has no keys"
    return blocks, None


def _words(node, depth=0):
    """A value of a YAML in words: the class that it builds, its arguments."""
    if depth > DEEPEST:
        return "..."
    tag = getattr(getattr(node, "tag", None), "value", None) or ""
    name = tag.rpartition(":")[2].rpartition(".")[2]
    if isinstance(node, dict):
        text = ", ".join(
            f"{key} {_words(value, depth + 1)}" for key, value in node.items()
        )
        if name:
            text = f"{name} ({text})" if text else name
    elif isinstance(node, list):
        text = f"[{', '.join(_words(value, depth + 1) for value in node)}]"
    else:
        value = getattr(node, "value", node)
        text = "none" if value is None else str(value)
        text = f"{name} {text}".strip() if name else text
    return _shortened(text)


def _shortened(text):
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."
