"""Pretrained folders that try to run code, or to use up time or memory.

``HOSTILE`` maps a name to (what makes the folder hostile, what the error says).
Each function gets a copy of a good folder, and a folder outside of it in which
nothing may be written.
"""

import json
import os
import pickle
import struct
import zipfile

import torch
from speechbrain.dataio.encoder import CategoricalEncoder

YAML, MODEL = "hyperparams.yaml", "embedding_model.ckpt"
TAG = "is refused; only !new, !name and !ref"
CLASS = "is not a class that may be built without trust"
PLACE = "only files beside it are read without trust"
TENSORS = "contains more than tensors"


class Call:
    """A pickle that calls a function."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def add(text):
    """Appends lines to the YAML."""

    def change(folder, outside):
        with open(folder / YAML, "a") as stream:
            stream.write("\n" + text.replace("OUTSIDE", str(outside)) + "\n")

    return change


def swap(old, new):
    """Replaces a text of the YAML."""

    def change(folder, outside):
        text = (folder / YAML).read_text()
        assert old in text
        new_text = new.replace("OUTSIDE", str(outside))
        (folder / YAML).write_text(text.replace(old, new_text, 1))

    return change


def whole(text):
    """Replaces the YAML."""

    def change(folder, outside):
        (folder / YAML).write_text(text)

    return change


def pickled(thing):
    """Replaces weights by a state dict with a thing in it."""

    def change(folder, outside):
        state = torch.load(folder / MODEL)
        torch.save({**state, "more": thing(outside)}, folder / MODEL)

    return change


def weights(change_state):
    """Changes the tensors of the encoder."""

    def change(folder, outside):
        torch.save(change_state(torch.load(folder / MODEL)), folder / MODEL)

    return change


def file(name, content):
    """Replaces or adds a file."""

    def change(folder, outside):
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    return change


def link(name, target):
    """Replaces a file by a link."""

    def change(folder, outside):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target.replace("OUTSIDE", str(outside)))

    return change


def pairs(*changes):
    """Several changes."""

    def change(folder, outside):
        for one in changes:
            one(folder, outside)

    return change


def truncated(folder, outside):
    data = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(data[: len(data) // 2])


def swapped(folder, outside):
    (folder / MODEL).rename(folder / "x")
    (folder / "classifier.ckpt").rename(folder / MODEL)
    (folder / "x").rename(folder / "classifier.ckpt")


def fifo(folder, outside):
    (folder / MODEL).unlink()
    os.mkfifo(folder / MODEL)


def sparse(name, size):
    """Replaces a file by one of zeros that needs no disk."""

    def change(folder, outside):
        with open(folder / name, "wb") as stream:
            stream.truncate(size)

    return change


def packed_archive(folder, outside):
    """A zip bomb."""
    path = folder / MODEL
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in held.items():
            big = bytes(10**8) if name.endswith("/data/0") else data
            archive.writestr(name, big)


def negative_variance(state):
    key = next(key for key in state if key.endswith("running_var"))
    return {**state, key: -state[key]}


def not_finite(value):
    def change(state):
        key = "embedding.weight"
        return {**state, key: torch.full_like(state[key], value)}

    return change


def expanded(state):
    key = "embedding.weight"
    return {**state, key: torch.zeros(1).expand(state[key].shape)}


def labels(*names):
    """Replaces the label map."""

    def change(folder, outside):
        encoder = CategoricalEncoder()
        encoder.update_from_iterable(names)
        encoder.save(folder / "label_encoder.ckpt")

    return change


def safetensors_bomb(folder, outside):
    """A header that declares far more than the file has."""
    tensor = {"dtype": "F32", "shape": [10**6, 10**6]}
    header = json.dumps({"w": {**tensor, "data_offsets": [0, 4]}}).encode()
    (folder / MODEL).unlink()
    (folder / "embedding_model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + bytes(4)
    )


def bytearray_bomb(folder, outside):
    """Without a list of names, torch would allocate 64 GB here."""
    state = dict(torch.load(folder / MODEL))
    torch.save({**state, "more": Call(bytearray, 2**36)}, folder / MODEL)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
REFERENCES = "b0: [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"b{n}: [{', '.join([f'!ref <b{n - 1}>'] * 10)}]\n" for n in range(1, 10)
)
NETWORK = "block_sizes: [1, 1, 1, 1]"
TOUCH = '"touch OUTSIDE/ran"'

HOSTILE = {
    # functions
    "apply": (add(f"x: !apply:os.system [{TOUCH}]"), TAG),
    "apply eval": (add("x: !apply:builtins.eval ['1']"), TAG),
    "apply in modules": (
        swap("!ref <front_end>", f"!apply:os.system [{TOUCH}]"),
        TAG,
    ),
    "applyref": (add("x: !applyref:os.getcwd"), TAG),
    "module": (add("x: !module:os"), TAG),
    "python object": (
        add(f"x: !!python/object/apply:os.system [{TOUCH}]"),
        TAG,
    ),
    "python name": (add("x: !!python/name:os.system"), TAG),
    "python module": (add("x: !!python/module:os"), TAG),
    "python tag with a handle": (
        whole(
            "%TAG !p! tag:yaml.org,2002:python/object/apply:\n---\n"
            "x: !p!os.system [ls]\n"
        ),
        TAG,
    ),
    # classes
    "new subprocess": (
        add("x: !new:subprocess.Popen\n    args: [touch, OUTSIDE/ran]"),
        CLASS,
    ),
    "name function": (add("x: !name:os.system"), CLASS),
    "name eval": (add("x: !name:builtins.eval"), CLASS),
    "new path": (add("x: !new:pathlib.Path [OUTSIDE/ran]"), CLASS),
    "new tempfile": (
        add("x: !new:tempfile.NamedTemporaryFile {dir: OUTSIDE}"),
        CLASS,
    ),
    "name that a module imports": (
        add("x: !new:speechbrain_ext.lobes.features.MelSpectrogram"),
        CLASS,
    ),
    "function of a module": (
        add("x: !new:speechbrain.processing.features.spectral_magnitude"),
        CLASS,
    ),
    "module of a module": (add("x: !new:torch.nn.functional.os"), CLASS),
    "attribute of a class": (
        add("x: !new:torch.nn.Linear.__init__.__globals__"),
        CLASS,
    ),
    "private class": (
        add("x: !new:speechbrain_ext.nnet.sharded._ShardedHead"),
        CLASS,
    ),
    "class that downloads": (
        add(
            "x: !new:speechbrain.lobes.models.fairseq_wav2vec.FairseqWav2Vec1\n"
            "    pretrained_path: http://example.invalid/a.pt\n"
            "    save_path: OUTSIDE/ran"
        ),
        CLASS,
    ),
    "class that writes": (
        add(
            "x: !new:speechbrain.utils.train_logger.FileTrainLogger\n"
            "    save_file: OUTSIDE/ran"
        ),
        CLASS,
    ),
    "module in the folder": (
        pairs(
            file("custom.py", "raise SystemExit('ran')\n"),
            add("x: !new:custom.Thing"),
        ),
        CLASS,
    ),
    "torch.load as a class": (add("x: !new:torch.load [a]"), CLASS),
    "lazy layer": (add("x: !new:torch.nn.LazyLinear [3]"), CLASS),
    # references and files
    "include": (add("x: !include:/etc/passwd"), TAG),
    "copy chain": (
        add(
            "c0: [x]\n"
            + "\n".join(f"c{n}: !copy <c{n - 1}>" for n in range(1, 50))
        ),
        TAG,
    ),
    "reference loop": (add("x: !ref <y>\ny: !ref <x>"), "form a loop"),
    "anchor loop": (add("x: &x [*x]"), "form a loop"),
    "reference to an attribute": (
        add("x: !ref <embedding_model.__class__>"),
        "there is no <embedding_model.__class__>",
    ),
    "arithmetic": (
        add("x: !ref <sample_rate> ** <sample_rate>"),
        "a reference must be",
    ),
    "merged keys": (add("<<: {x: 1}"), "a key must be a plain name"),
    "key twice": (add("sample_rate: 8000"), "comes twice"),
    "absolute path": (
        add("    paths:\n        embedding_model: OUTSIDE/secret.ckpt"),
        PLACE,
    ),
    "path with ..": (
        add("    paths:\n        embedding_model: ../outside/secret.ckpt"),
        PLACE,
    ),
    "address": (
        add("    paths:\n        embedding_model: http://example.invalid/a"),
        PLACE,
    ),
    "hooks": (
        add("    custom_hooks:\n        embedding_model: x"),
        "cannot be used",
    ),
    "loadable of another kind": (
        add("        other: !ref <audio_normalizer>"),
        "only modules and label maps",
    ),
    "option of the user": (add("compile: True"), "sets the option `compile`"),
    "link outside": (link(MODEL, "OUTSIDE/secret.ckpt"), "link out of"),
    "relative link outside": (link(MODEL, "../outside/secret.ckpt"), "link"),
    "link of the YAML": (link(YAML, "OUTSIDE/secret.yaml"), "link out of"),
    "link to a device": (link(MODEL, "/dev/zero"), "link out of"),
    "link to nothing": (link(MODEL, "none.ckpt"), "is not a regular file"),
    "pipe": (fifo, "is not a regular file"),
    # time and memory
    "anchor bomb": (add(BOMB), "1000000 characters"),
    "reference bomb": (add(REFERENCES), "1000000 characters"),
    "deep nesting": (add("x: " + "[" * 20000), "nested too deeply"),
    "large YAML": (add("# " + "x" * 2**20), "at most 65536 bytes"),
    "large number": (swap("channels: 4", "channels: 4000000"), "at most"),
    "huge shape": (swap("channels: 4", "channels: 100000"), "much larger"),
    "many blocks": (
        swap(NETWORK, "block_sizes: [900000, 1, 1, 1]"),
        "much larger",
    ),
    "huge filterbank": (swap("n_mels: 40", "n_mels: 1000000"), "much larger"),
    "huge extra module": (
        add("x: !new:torch.nn.Linear [1000000, 1000000]"),
        "much larger",
    ),
    "many modules": (
        add(
            "x: !new:torch.nn.TransformerEncoder\n    num_layers: 1000000\n"
            "    encoder_layer: !new:torch.nn.TransformerEncoderLayer [8, 2]"
        ),
        "much larger",
    ),
    "huge weights": (sparse(MODEL, 2**31), "is of another network"),
    "huge folder": (sparse("more.bin", 2**40), "must have at most"),
    "huge card": (sparse("README.md", 2**30), "must have at most"),
    "huge calibration": (sparse("calibration.json", 2**30), "at most"),
    "huge label map": (sparse("label_encoder.ckpt", 2**30), "at most"),
    "zip bomb": (packed_archive, "truncated, or not a file of torch.save"),
    "bytearray bomb": (bytearray_bomb, TENSORS),
    # weights
    "pickle that calls": (
        pickled(lambda outside: Call(os.mkdir, str(outside / "ran"))),
        TENSORS,
    ),
    "plain pickle": (
        file(MODEL, pickle.dumps(Call(os.system, "touch ran"))),
        TENSORS,
    ),
    "pickle as a label map": (
        file("label_encoder.ckpt", pickle.dumps(Call(os.system, "touch ran"))),
        "label_encoder.ckpt",
    ),
    "pickle as a head": (
        file("classifier.ckpt", pickle.dumps(Call(os.system, "touch ran"))),
        TENSORS,
    ),
    "old format of torch": (
        lambda folder, outside: torch.save(
            torch.load(folder / MODEL),
            folder / MODEL,
            _use_new_zipfile_serialization=False,
        ),
        TENSORS,
    ),
    "truncated weights": (truncated, "truncated"),
    "swapped weights": (swapped, "lacks [0-9]+ tensors"),
    "changed weights": (
        weights(lambda state: {key: value + 1 for key, value in state.items()}),
        "has another checksum|has [0-9]+ of [0-9]+ bytes",
    ),
    "weights of another architecture": (
        weights(lambda _: torch.nn.Linear(3, 4).state_dict()),
        "lacks [0-9]+ tensors",
    ),
    "weights of another size": (
        swap("lin_neurons: 8", "lin_neurons: 9"),
        "does not fit",
    ),
    "NaN": (weights(not_finite(float("nan"))), "not finite"),
    "infinity": (weights(not_finite(float("inf"))), "not finite"),
    "negative variance": (weights(negative_variance), "variance below 0"),
    "values that are not there": (weights(expanded), "but has fewer"),
    "a list": (
        lambda folder, outside: torch.save([torch.ones(1)], folder / MODEL),
        "must be a state dict",
    ),
    "header of safetensors": (safetensors_bomb, "declares|needs a package"),
    # other files
    "label map that calls": (
        file("label_encoder.ckpt", "__import__('os').mkdir('ran') => 0\n"),
        "is damaged",
    ),
    "label twice": (
        file("label_encoder.ckpt", "'a' => 0\n'a' => 1\n"),
        "is damaged",
    ),
    "label map of another head": (labels("a", "b", "c"), "has 3 speakers"),
    "checksums nested deeply": (file("sums.json", "[" * 10**5), "sums.json"),
    "checksums of other files": (file("sums.json", "{}"), "does not list"),
    "calibration nested deeply": (
        file("calibration.json", "[" * 10**5),
        "calibration.json",
    ),
    "calibration with NaN": (
        file(
            "calibration.json",
            '{"cosine": {"weights": [NaN], "bias": 0, "features": ["score"]}}',
        ),
        "calibration.json",
    ),
    "card with a script": (
        file("README.md", "# Model\n<script>fetch('/')</script>\n"),
        "README.md has a script",
    ),
    "card with a tag": (
        file("README.md", "---\nx: !!python/object/apply:os.abort []\n---\n"),
        "README.md has a script",
    ),
    "no modules": (swap("modules:", "other:"), "keys `modules`"),
    "module without a file": (
        swap(
            "        classifier: !ref <classifier>\n        label",
            "        label",
        ),
        "not among the `loadables`",
    ),
    "module that is none": (
        swap("embedding_model: !ref <embedding_model>", "embedding_model: 3"),
        "a module of torch",
    ),
}
