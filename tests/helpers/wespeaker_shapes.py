"""A tiny ResNet, and the shapes of its state dict in WeSpeaker."""

TINY = {"block_sizes": [1, 1, 1, 1], "channels": 4, "lin_neurons": 6}


def wespeaker_shapes():
    """Keys and shapes of WeSpeaker's state dict for TINY, 40 filterbanks."""

    def norm(key, size):
        parts = ("weight", "bias", "running_mean", "running_var")
        counter = {f"{key}.num_batches_tracked": []}
        return {f"{key}.{part}": [size] for part in parts} | counter

    shapes = {"conv1.weight": [4, 1, 3, 3], **norm("bn1", 4)}
    for stage, (planes, width) in enumerate(
        [(4, 4), (4, 8), (8, 16), (16, 32)], start=1
    ):
        key = f"layer{stage}.0"
        shapes[f"{key}.conv1.weight"] = [width, planes, 3, 3]
        shapes[f"{key}.conv2.weight"] = [width, width, 3, 3]
        shapes |= norm(f"{key}.bn1", width) | norm(f"{key}.bn2", width)
        if stage > 1:
            shapes[f"{key}.shortcut.0.weight"] = [width, planes, 1, 1]
            shapes |= norm(f"{key}.shortcut.1", width)
    return shapes | {"seg_1.weight": [6, 320], "seg_1.bias": [6]}
