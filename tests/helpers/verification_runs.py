"""An untrained encoder, exported for the toy corpus."""

import importlib
import sys

import pytest
import torch
from speechbrain.dataio.encoder import CategoricalEncoder

from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.inference.export import export_pretrained
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier

RECIPE = """\
compute_features: !new:speechbrain_ext.lobes.features.KaldiFbank
    n_mels: 40
mean_var_norm: !new:speechbrain_ext.lobes.features.SentenceMeanNorm
embedding_model: !new:speechbrain_ext.lobes.models.ResNet.ResNet
    input_size: 40
    block_sizes: [1, 1, 1, 1]
    channels: 4
    lin_neurons: 8
classifier: !name:speechbrain_ext.nnet.classifiers.CosineClassifier
    input_size: 8
"""


def export_encoder(folder, speakers, seed=0):
    """Exports a tiny encoder with random weights and a label map."""
    labels = CategoricalEncoder()
    labels.update_from_iterable(speakers)
    torch.manual_seed(seed)
    modules, recipe = (
        {"embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8)},
        RECIPE,
    )
    if speakers:
        modules["classifier"] = CosineClassifier(8, len(speakers))
    else:  # as conversion of published checkpoints does
        modules["classifier"] = torch.nn.Identity()
        recipe = RECIPE.split("classifier:")[0]
        recipe += "classifier: !name:torch.nn.Identity\n"
    folder = export_pretrained(folder, recipe, modules, labels, 8)
    for path in folder.glob("*.safetensors"):
        path.unlink()  # tests break the .ckpt
    return folder


def speakers_of(corpus):
    """The training and the test speakers of the corpus."""
    trials = read_trials(corpus / "meta" / "veri_toy.txt")
    tested = {name.split("/")[0] for name in trials["enrol"]}
    tested |= {name.split("/")[0] for name in trials["test"]}
    known = {path.name for path in (corpus / "wav").iterdir()}
    return sorted(known - tested), sorted(tested)


@pytest.fixture(scope="session")
def exported(corpus, tmp_path_factory):
    """The exported folder; its label map has the training speakers."""
    folder = tmp_path_factory.mktemp("exported") / "pretrained"
    return export_encoder(folder, speakers_of(corpus)[0])


@pytest.fixture
def script(recipe_folder, monkeypatch):
    """Imports a script of the recipe, to call its ``main``."""
    made = []
    # scripts replace the hook for errors
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def load(name):
        made.append(name)
        return importlib.import_module(name)

    yield load
    for name in made:
        sys.modules.pop(name, None)


def error_of(main, *argv):
    """The error message of a script that ends with exit code 1."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in argv])
    said = ended.value.code
    assert isinstance(said, str) and said.startswith("error: "), said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1, said
    return said
