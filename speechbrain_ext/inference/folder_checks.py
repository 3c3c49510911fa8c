"""Files of a pretrained folder: what they are, before they are read."""

import os
import pathlib
import re
import stat

from speechbrain_ext.utils.seals import SUMS, seal_flaw
from speechbrain_ext.utils.yaml_files import read_yaml

# Keys that only these folders have in their hyperparams.yaml
OWNERS = {"pretrainer": "an encoder", "pretrained_folder": "a verification"}
LARGEST_FOLDER = 2**32  # bytes
MOST_FILES = 1000
LARGEST_TEXT = 2**23  # bytes of a label map, a calibration or checksums
SCRIPT = re.compile(
    r"<\s*(script|iframe|object|embed)\b|javascript:|!!python", re.I
)


def refuse_run_folder(folder):
    """Raises if a folder is the output folder of a training.

    Arguments
    ---------
    folder : pathlib.Path
        The folder that is to be a pretrained one.

    Raises
    ------
    ValueError
        If it is that of a training, whose ``pretrained`` has the encoder.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "train_log.txt").write_text("")
    >>> (folder / "pretrained").mkdir()
    >>> refuse_run_folder(folder)
    Traceback (most recent call last):
    ValueError: ...is the output folder of a training; pass .../pretrained...
    """
    trained = any((folder / name).is_dir() for name in ("pretrained", "save"))
    if trained and (folder / "train_log.txt").is_file():
        raise ValueError(
            f"{folder} is the output folder of a training; pass "
            f"{folder / 'pretrained'}, which it has at its end."
        )


def refuse_other_run(folder, keys):
    """Raises if an output folder has the YAML of an encoder or another run.

    Arguments
    ---------
    folder : str | pathlib.Path
        The output folder; it may be missing.
    keys : collection of str
        The keys of the recipe that is to be written there.

    Raises
    ------
    ValueError
        If its hyperparams.yaml is an encoder's, or a verification's and the
        recipe is none.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hyperparams.yaml").write_text("pretrainer: 1")
    >>> refuse_other_run(folder, ["seed"])
    Traceback (most recent call last):
    ValueError: ...has the hyperparams.yaml of an encoder, which would be...
    """
    path = pathlib.Path(folder, "hyperparams.yaml")
    held = read_yaml(path) if path.is_file() else {}
    for key, owner in OWNERS.items():
        if key in held and key not in keys:
            raise ValueError(
                f"{folder} has the hyperparams.yaml of {owner}, which would "
                "be replaced; choose another `output_folder`."
            )


def check_files(folder):
    """Raises for links out of a folder, special files and huge ones.

    Arguments
    ---------
    folder : pathlib.Path
        The pretrained folder.

    Raises
    ------
    FileNotFoundError
        If it has no hyperparams.yaml.
    ValueError
        If a file is a link out of the folder, not a regular file or too
        large, or if its model card has a script.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "hyperparams.yaml").symlink_to(__file__)
    >>> check_files(folder)
    Traceback (most recent call last):
    ValueError: ...hyperparams.yaml is a link out of the folder, which is...
    """
    refuse_run_folder(folder)
    if not (folder / "hyperparams.yaml").is_file():
        raise FileNotFoundError(
            f"The pretrained folder {folder} has no hyperparams.yaml; pass the "
            "folder `pretrained` of a training."
        )
    root = pathlib.Path(os.path.realpath(folder))
    if root.parent.name == "snapshots":  # the Hub's cache has links to blobs
        root = root.parent.parent
    total, files = 0, os.listdir(folder)
    for name in files:
        file = folder / name
        real = pathlib.Path(os.path.realpath(file))
        if not real.is_relative_to(root):
            raise ValueError(
                f"{file} is a link out of the folder, which is not followed; "
                "replace it by the file."
            )
        mode = os.stat(file).st_mode if os.path.exists(file) else 0
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"{file} is not a regular file; remove it.")
        total += os.stat(file).st_size
    if total > LARGEST_FOLDER or len(files) > MOST_FILES:
        raise ValueError(
            f"{folder} must have at most {MOST_FILES} files and "
            f"{LARGEST_FOLDER} bytes, got {len(files)} and {total}."
        )
    for name in ("calibration.json", SUMS, "README.md"):
        require_small(folder / name)
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        found = SCRIPT.search(text)
        if found:
            raise ValueError(
                f"{card} has a script ({found[0]}), which a model card does "
                "not need; remove it."
            )


def require_small(file):
    """Raises if a text file is too large to read.

    Arguments
    ---------
    file : pathlib.Path
        The file; it may be missing.

    Raises
    ------
    ValueError
        If it has more than 8 MiB.

    Example
    -------
    >>> require_small(getfixture("tmp_path") / "none.json")
    """
    if file.is_file() and file.stat().st_size > LARGEST_TEXT:
        raise ValueError(
            f"{file} must have at most {LARGEST_TEXT} bytes, got "
            f"{file.stat().st_size}."
        )


def check_sums(folder, files):
    """Raises if a file that is read differs from its checksum.

    Arguments
    ---------
    folder : pathlib.Path
        The pretrained folder.
    files : dict
        Paths of the files that are read, by the name of their module.

    Raises
    ------
    ValueError
        If the folder has checksums, and a file does not have its own.

    Example
    -------
    >>> check_sums(getfixture("tmp_path"), {})
    """
    names = {"hyperparams.yaml", *(file.name for file in files.values())}
    twins = {
        f"{name}{end}" for name in files for end in (".ckpt", ".safetensors")
    }
    names |= {name for name in twins if (folder / name).is_file()}
    flaw = seal_flaw(folder, sorted(names))
    if flaw:
        raise ValueError(
            f"{folder} is not as it was exported: {flaw}; export or download "
            f"it again, or delete {SUMS} if you have changed it yourself."
        )
