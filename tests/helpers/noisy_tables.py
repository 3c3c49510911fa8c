"""Small manifests whose labels are corrupted."""

import pandas as pd


def table(speakers=6, sessions=2, utterances=5, prefix="id"):
    """A manifest; speaker n has n utterances more."""
    rows = [
        (f"{prefix}{s}/s{e}/{u:03}", f"{prefix}{s}")
        for s in range(speakers)
        for e in range(sessions)
        for u in range(utterances + s)
    ]
    manifest = pd.DataFrame(rows, columns=["ID", "spk_id"])
    manifest["wav"] = "/data/" + manifest["ID"] + ".wav"
    return manifest


def mixed_sizes():
    """Speakers with 1 to 5 sessions; id0 and id5 have one."""
    whole = table(8, sessions=5)
    number = whole["ID"].str.extract(r"id(\d)/s(\d)").astype(int)
    return whole[number[1] <= number[0] % 5].reset_index(drop=True)
