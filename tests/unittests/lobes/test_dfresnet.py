"""The DF-ResNet against WeSpeaker's numbers, and its published sizes."""

import numpy as np
import pytest
import torch

from speechbrain_ext.integrations.golden_gemini import DF
from speechbrain_ext.lobes.models.DFResNet import DFResNet

# wespeaker@dfa7419 wespeaker/models/gemini_dfresnet.py with depths 1, 2, 1, 1,
# dims 4, 4, 8, 8, 16, 48 filterbanks, 6-dim embedding and weights by
# `rule_weights`, on default_rng(5).standard_normal((2, 50, 48))
EMBEDDINGS = [[-5.854826105161779, 1.029396146301187, 2.689929905299503, 21.446263521560276, 8.453621059009649, 7.420501441355319], [-4.467714928736796, -0.45227358183507604, 1.2954737909036123, 21.107946693027362, 10.341579741113753, 7.752037432653608]]  # fmt: skip


def test_embeddings_match_wespeaker(rule_weights):
    model = DFResNet(48, (1, 2, 1, 1), (4, 4, 8, 8, 16), 6).double().eval()
    # the rule draws by the published keys
    published = {
        key.replace("downsampling", "downsample_layers").replace(
            "embedding", "seg_1"
        ): list(value.shape)
        for key, value in model.state_dict().items()
    }
    drawn = rule_weights(published)
    model.load_state_dict(
        dict(zip(model.state_dict(), drawn.values(), strict=True))
    )
    x = np.random.default_rng(5).standard_normal((2, 50, 48))
    found = model(torch.tensor(x)).squeeze(1)
    torch.testing.assert_close(
        found, torch.tensor(EMBEDDINGS, dtype=torch.float64), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(
    ("layers", "parameters"),
    [("60", 4_047_840), ("114", 6_531_552), ("183", 9_196_384)],
)
def test_published_sizes(layers, parameters):
    model = DFResNet(80, DF[layers])
    assert sum(p.numel() for p in model.parameters()) == parameters
