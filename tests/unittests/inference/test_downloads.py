"""Which files of a repository are downloaded, and errors in words."""

import pytest

from speechbrain_ext.inference.downloads import (
    download_pretrained,
    hub_words,
    pretrained_names,
)
from speechbrain_ext.inference.safe_weights import has_safetensors


def test_names_of_a_pretrained_folder():
    good = ["README.md", "embedding_model.ckpt", "hyperparams.yaml"]
    good += ["label_encoder.ckpt", "label_encoder.txt", "normalization.npz"]
    bad = ["a.py", "run.sh", ".netrc", "../a.ckpt", "a/b.ckpt", "a\\b.ckpt"]
    bad += [".a.ckpt", "/a.ckpt", "a.ckpt\n", "a.pt", "custom.yaml", "x.npz"]
    assert pretrained_names(bad + good) == good
    assert pretrained_names([]) == []


def test_no_pickle_beside_the_same_weights_as_safetensors():
    both = ["a.ckpt", "a.safetensors", "b.ckpt"]
    kept = ["a.safetensors", "b.ckpt"] if has_safetensors() else both
    assert pretrained_names(both) == kept


def test_words_are_one_line():
    assert hub_words(OSError("one.\n\ntwo")) == "one"
    assert hub_words(OSError()) == "OSError"


def test_the_cache_is_used_offline(hub):
    with pytest.raises(OSError, match="it is not in the cache") as raised:
        download_pretrained("owner/name", offline=True)
    assert "\n" not in str(raised.value)
    assert hub.asked == []
