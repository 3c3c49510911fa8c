"""Model cards."""

import pandas as pd
import pytest
import ruamel.yaml

from speechbrain_ext.inference.model_card import (
    FIGURES,
    add_figures,
    data_sentence,
    front_matter,
    model_card,
)
from speechbrain_ext.utils.files import atomic_write

RECIPE = """\
seed: 7
number_of_epochs: 3
compute_features: !new:a.b.KaldiFbank
embedding_model: !new:a.b.ResNet
    channels: 4
classifier: !name:a.b.CosineClassifier
loss: !new:a.b.AAMSoftmax
"""
RESULT = {"trials": "O", "scoring": "cosine", "EER %": 1.5}
RESULT["EER % interval"] = (1.25, 1.75)


@pytest.fixture
def folder(tmp_path):
    """A folder with a card that this project wrote."""
    with atomic_write(tmp_path / "README.md") as stream:
        stream.write(model_card(RECIPE, 2, 8, "Ten hours."))
    return tmp_path


def test_known_wrong_labels_are_in_the_card():
    data = pd.DataFrame({"duration": 36.0, "spk_id": list("aab")})
    assert "wrong" not in data_sentence(data)
    data["spk_id_clean"] = list("abb")
    assert data_sentence(data).endswith(" 33.3 % of the labels were wrong.")


def test_front_matter_is_that_of_the_hub():
    text = model_card(RECIPE, 2, 8, weights_license="cc-by-4.0")
    block = text.split("---\n")[1]
    found = ruamel.yaml.YAML(typ="safe").load(block)
    assert found["license"] == "cc-by-4.0"
    assert found["library_name"] == "speechbrain"
    assert found["metrics"] == ["eer", "min_dcf"]
    assert "speaker-verification" in found["tags"]
    assert "license: unknown\n" in front_matter()


def test_a_card_has_the_settings_of_the_recipe(folder):
    text = (folder / "README.md").read_text()
    for line in (
        "# ResNet",
        "| front end | KaldiFbank |",
        "| classifier | CosineClassifier, 2 classes |",
        "| loss | AAMSoftmax |",
        "| epochs | 3 |",
        "| seed | 7 |",
        "| licence of the weights | not stated |",
        "Not verified yet.",
        "the Python package `speechbrain_ext`",
        'SpeakerVerifier.from_folder("path/of/this/folder")',
    ):
        assert line in text, line
    assert "Ten hours. The names" in text


def test_figures_are_replaced_with_their_intervals(folder):
    table = pd.DataFrame({"condition": ["a|<script>"], "EER %": [2.0]})
    add_figures(folder, [{**RESULT, "EER %": 99.0}])
    add_figures(folder, [RESULT], ["cosine by gender", table])
    text = (folder / "README.md").read_text()
    assert "| O | cosine | 1.50 [1.25, 1.75] |" in text
    assert "cosine by gender\n\n| condition | EER % |" in text
    assert "| a&#124;&lt;script> | 2.00 |" in text
    assert "99" not in text and "Not verified" not in text
    assert text.count(FIGURES[0]) == text.count(FIGURES[1]) == 1
    assert "## Limits" in text


def test_a_card_of_the_users_is_left_alone(folder):
    add_figures(folder / "none", [RESULT])
    for text in ("mine", f"mine {FIGURES[0]} {FIGURES[1]}"):
        (folder / "README.md").write_text(text)
        add_figures(folder, [RESULT])
        assert (folder / "README.md").read_text() == text
    (folder / "README.md").unlink()
    with atomic_write(folder / "README.md") as stream:
        stream.write("a card of another form")
    add_figures(folder, [RESULT])
    assert (folder / "README.md").read_text() == "a card of another form"
