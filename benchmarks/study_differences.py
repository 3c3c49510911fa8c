"""Paired differences of a study's systems, with intervals over speakers."""

import numpy as np
import record
import study_noise

from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.utils.bootstrap import SpeakerBootstrap, interval
from speechbrain_ext.utils.error_curve import ErrorCurve
from speechbrain_ext.utils.evaluation import metric_functions

EER = metric_functions([])["EER %"]


class Draws:
    """EERs of score files, on the same draws of a list's speakers.

    Arguments
    ---------
    replicates : int
        How often the speakers of a list are drawn.
    """

    def __init__(self, replicates):
        self.replicates, self.lists, self.known = replicates, {}, {}

    def of(self, path, name):
        """The EER in percent of a list's score file, and of each draw."""
        if path not in self.known:
            *trials, scores = self._read(path)
            if name not in self.lists:
                self.lists[name] = trials, self._bootstrap(*trials)
            first, bootstrap = self.lists[name]
            if first != trials:
                raise ValueError(
                    f"{path} must have the trials of the other systems of "
                    f"{name}; verify all systems on the same lists."
                )
            targets = bootstrap.targets
            curve = ErrorCurve.from_scores(scores[targets], scores[~targets])
            drawn = bootstrap.evaluate(scores, {"EER": EER})["EER"]
            self.known[path] = EER(curve), drawn
        return self.known[path]

    def _read(self, path):
        """Both names, labels and scores, in an order that all files share."""
        enrol, test, scores, targets = read_scores(path)
        columns = enrol, test, targets.tolist(), scores.tolist()
        rows = sorted(zip(*columns, strict=True))
        enrol, test, targets, scores = map(list, zip(*rows, strict=True))
        return enrol, test, targets, np.array(scores)

    def _bootstrap(self, enrol, test, targets):
        speakers = [
            [name.split("/")[0] for name in side] for side in (enrol, test)
        ]
        return SpeakerBootstrap(targets, *speakers, self.replicates)


def by_condition(rows):
    """EER rows by (list, scoring), then by system: one for each seed."""
    found = {}
    for row in rows:
        if row.get("figure") == "EER":
            condition = found.setdefault((row["trials"], row["scoring"]), {})
            condition.setdefault(row["system"], []).append(row)
    return found


def differences(study, rows, folder, replicates=1000):
    """Rows: the mean EER of a system's seeds less that of another's.

    In each draw of the speakers, the EERs are averaged over the seeds. The
    seeds are those that both systems have. The published code makes other
    draws from a seed, so of its pairs all seeds of either system count. The
    interval is one over speakers: it says nothing about other seeds.
    """
    draws, found = Draws(replicates), []
    for (trials, scoring), systems in by_condition(rows).items():
        for first, second, *bound in study["compare"]:
            pair = [systems.get(name, []) for name in (first, second)]
            if not any(
                "published" in study["systems"][n] for n in (first, second)
            ):
                pair = _common_seeds(*pair)
            if not all(pair):
                continue
            name = f"{first} minus {second} {trials} {scoring} EER"
            about = {
                "figure": "EER difference",
                "system": first,
                "other": second,
                "trials": trials,
                "scoring": scoring,
            }
            both = [
                [draws.of(folder / row["scores"], trials) for row in one]
                for one in pair
            ]
            found += _rows(name, about, pair, both, bound, replicates)
    if study_noise.is_noisy(rows):
        found += study_noise.figures(rows, draws, folder)
        found += study_noise.increases(study, rows, draws, folder)
    return found


def _common_seeds(*pair):
    """The rows of the seeds that both systems have."""
    seeds = set.intersection(*({row["seed"] for row in one} for one in pair))
    return [[row for row in one if row["seed"] in seeds] for one in pair]


def _rows(name, about, pair, both, bound, replicates):
    """A difference and, where there is a bound, its interval's lower end."""
    means = [np.mean([eer for eer, _ in one]) for one in both]
    drawn = [np.mean([eers for _, eers in one], axis=0) for one in both]
    ends = interval(drawn[0] - drawn[1])
    seeds = [[row["seed"] for row in one] for one in pair]
    about = about | {key: pair[0][0][key] for key in record.SHARED}
    about["command"] = "; ".join(row["command"] for one in pair for row in one)
    about["minutes"] = round(sum(r["minutes"] for one in pair for r in one), 2)
    about["seed"] = seeds
    about["setting"] = {
        "replicates": replicates,
        "systems": [one[0]["setting"] for one in pair],
    }
    about["derived_by"] = record.state()[0]
    row = record.row(name, float(means[0] - means[1]), "points", digits=4)
    row["interval"] = [round(end, 4) for end in ends]
    row["values"] = [[row["value"] for row in one] for one in pair]
    made = [row | about]
    if bound:  # no worse beyond chance: the interval does not lie above 0
        row = record.row(f"{name}, lower end", ends[0], "points", 0, digits=4)
        made.append(row | about | {"figure": "lower end"})
    return made
