"""How an encoder was trained, read from the YAMLs in its folder."""

import pathlib

import ruamel.yaml

MOST_LETTERS = 300  # per value
DEEPEST = 4  # nested blocks; a YAML may contain itself
CACHED = "models--"  # begins a model's folder in the cache of the Hub's client

# Keys of a training recipe, their names in a report, and their units
PLAIN = (
    ("number_of_epochs", "epochs", ""),
    ("batch_size", "batch size (global)", ""),
    ("sentence_len", "crop", "s"),
    ("speeds", "speeds", ""),
    ("seed", "seed", ""),
)


def training_settings(pretrained_folder):
    """Reads the settings of a training: network, loss, epochs, seed, ...

    The network is read from the encoder's ``hyperparams.yaml``. The other
    settings are read from the ``hyperparams.yaml`` of the training, one folder
    above, if the encoder was not moved. No objects are built, so files from
    unknown sources are safe.

    Arguments
    ---------
    pretrained_folder : str | pathlib.Path
        The encoder's folder.

    Returns
    -------
    dict
        Maps names to values, both as text. Folders are shown by name, without
        their path. If the training is not known, ``training`` gives the
        reason.

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
    found = {"encoder": _name(folder)}
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
        problem = problem or "the YAML above the encoder has another network"
        return {**found, "training": f"not known: {problem}"}
    return {**found, **_training(training)}


def _name(folder):
    """A short name of the encoder; of one of the Hub, owner and name."""
    *_, repository, above, last = ("", "", *folder.parts)
    if above == "snapshots" and repository.startswith(CACHED):
        return repository.removeprefix(CACHED).replace("--", "/", 1)
    return f"{above}/{last}"


def _training(blocks):
    """The settings in a training recipe, apart from the network."""
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
            # the value may list several folders, separated by commas
            parts = str(blocks[key] or "").split(",")
            names = [pathlib.PurePath(part.strip()).name for part in parts]
            found[name] = _shortened(", ".join(names) or "none")
    for key in ("label_noise", "dev_label_noise", "label_filter"):
        if key in blocks:
            found[key.replace("_", " ")] = _words(blocks[key])
    return found


def _blocks(path):
    """The keys of a YAML, and a reason if they cannot be read."""
    name = "/".join(path.parts[-2:])
    if not path.is_file():
        return {}, f"{name} does not exist"
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
    """A value of a YAML as text: the class that it builds, its arguments."""
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
