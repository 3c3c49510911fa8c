"""The fixed path of the readers of checkpoints."""

import speechbrain_ext.utils.conversion as conversion
from speechbrain_ext.integrations import published_checkpoints


def test_the_fixed_path_passes_on_the_readers():
    for name in (*conversion.__all__, "main"):
        assert getattr(conversion, name) is getattr(published_checkpoints, name)
