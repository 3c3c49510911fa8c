"""The EER that is followed during training."""

import pandas as pd
import pytest
import torch
from processes import on_processes

from speechbrain_ext.processing.development import DevelopmentTrials
from speechbrain_ext.utils.distributed import rank, world_size
from speechbrain_ext.utils.metrics import EER


def test_development_eer_is_that_of_each_trial_by_hand():
    names = [f"{speaker}/{number}" for speaker in "cab" for number in range(4)]
    manifest = pd.DataFrame({"ID": names})
    pairs = [(one, two) for one in names for two in names if one < two]
    trials = pd.DataFrame(pairs, columns=["enrol", "test"])
    trials["target"] = trials.enrol.str[0] == trials.test.str[0]
    rng = torch.Generator().manual_seed(7)
    embeddings = torch.randn(len(names), 3, generator=rng)
    dev_trials = DevelopmentTrials(manifest, trials)
    assert dev_trials.utterances == 12
    by_name = dict(zip(names, embeddings, strict=True))
    scores = {True: [], False: []}
    for one, two in pairs:
        cosine = torch.cosine_similarity(by_name[one], by_name[two], dim=0)
        scores[one[0] == two[0]].append(cosine)
    wanted = EER(torch.stack(scores[True]), torch.stack(scores[False]))[0]
    assert 0.2 < wanted < 0.8
    assert dev_trials.eer(embeddings) == pytest.approx(wanted, abs=1e-9)


def kept_on_processes(manifest, trials, embeddings):
    """The EER where each process keeps every other batch of two."""
    dev_trials = DevelopmentTrials(manifest, trials, embeddings.shape[1])
    batches = torch.arange(len(manifest)).split(2)
    for _ in range(2):  # a second pass replaces the first
        for rows in batches[rank() :: world_size()]:
            dev_trials.keep(rows, embeddings[rows].unsqueeze(1))
        found = dev_trials.kept_eer()
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_kept_embeddings_of_all_processes_count(processes):
    names = [f"{speaker}/{number}" for speaker in "ab" for number in range(3)]
    manifest = pd.DataFrame({"ID": names})
    pairs = [(one, two) for one in names for two in names if one < two]
    trials = pd.DataFrame(pairs, columns=["enrol", "test"])
    trials["target"] = trials.enrol.str[0] == trials.test.str[0]
    rng = torch.Generator().manual_seed(2)
    embeddings = torch.randn(len(names), 3, generator=rng)
    wanted = DevelopmentTrials(manifest, trials).eer(embeddings)
    arguments = manifest, trials, embeddings
    if processes == 1:
        assert kept_on_processes(*arguments) == wanted
    else:
        found = on_processes(kept_on_processes, 2, *arguments)
        assert found == [wanted, wanted]


def test_a_trial_of_no_utterance_of_the_manifest_is_an_error():
    trials = pd.DataFrame({"enrol": ["a"], "test": ["z"], "target": [True]})
    with pytest.raises(KeyError, match="z"):
        DevelopmentTrials(pd.DataFrame({"ID": ["a", "b"]}), trials)
