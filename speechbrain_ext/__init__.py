"""Speaker verification for SpeechBrain: losses, backbones, data, scoring."""

import pathlib


def recipes_folder():
    """The folder with the recipes: ``VoxCeleb/SpeakerRec`` and its hparams.

    Returns
    -------
    pathlib.Path
        A folder in the installed package, or in the checkout.

    Example
    -------
    >>> recipe = recipes_folder() / "VoxCeleb" / "SpeakerRec"
    >>> (recipe / "train_speaker_embeddings.py").is_file()
    True
    >>> (recipe / "hparams" / "resnet_csphereface2.yaml").is_file()
    True
    """
    package = pathlib.Path(__file__).resolve().parent
    installed = package / "recipes"  # setup.py puts them there
    return installed if installed.is_dir() else package.parent / "recipes"
