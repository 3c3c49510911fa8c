"""Label noise in a study: error rates by rate of noise, and the leaderboard.

The runs of one line differ only in the rate of their noise and in the seed.
Runs without noise are the rate 0 of every kind that has a rate.
"""

import json
import re

import numpy as np
import record

from speechbrain_ext.dataio.label_noise import RATELESS
from speechbrain_ext.utils.bootstrap import interval

STEP = 0.1  # a slope is for a rate that rises by 0.1
FAMILY = ("encoder", "loss", "filter", "filter options", "options")
LINE = (*FAMILY, "kind", "noise")


def setting_of(row):
    """A run's encoder, loss, filter and noise, read off its setting."""
    setting = row["setting"]
    options = dict(setting["options"])
    noise = dict(options.pop("label_noise", None) or {})
    chosen = options.pop("label_filter", None)
    if "start_from" in setting:
        options["start_from"] = setting["start_from"].rpartition("_")[0]
    stem = setting["recipe"].removesuffix(".yaml").removesuffix("_small")
    encoder, _, loss = stem.partition("_")
    kind = noise.pop("kind", "none")
    rate, _ = noise.pop("rate", 0.0), noise.pop("seed", None)
    if kind in RATELESS:
        rate = None
    elif not rate:
        kind, noise = "none", {}
    return {
        "encoder": encoder,
        "loss": loss,
        "filter": filter_name(chosen),
        "filter options": filter_options(chosen),
        "options": options,
        "kind": kind,
        "noise": noise,
        "rate": rate,
        "seed": row["seed"],
    }


def filter_name(chosen):
    """The name of a label filter: of its class, or its key `kind`."""
    if not chosen:
        return "none"
    if isinstance(chosen, dict):
        return str(chosen.get("kind", json.dumps(chosen)))
    return re.split(r"[\s{]", chosen.strip())[0].rpartition(".")[2]


def filter_options(chosen):
    """The options of a label filter, by name."""
    if not chosen:
        return {}
    if isinstance(chosen, dict):
        return {k: v for k, v in chosen.items() if k != "kind"}
    given = re.split(r"(?=[\s{])", chosen.strip(), maxsplit=1)[1:]
    return {"given": given[0].strip()} if given else {}


def own_options(rows):
    """What is left of the options without those that all runs share."""
    every = [
        setting_of(row)["options"]
        for row in rows
        if isinstance(row["setting"], dict) and "recipe" in row["setting"]
    ]
    shared = [
        key
        for key, value in (every[0].items() if every else ())
        if all(one.get(key) == value for one in every)
    ]

    def own(options):
        return {k: v for k, v in options.items() if k not in shared}

    return own


def is_noisy(rows):
    """Whether any run of a study has label noise."""
    return any(
        row["setting"].get("options", {}).get("label_noise")
        for row in rows
        if row.get("figure") == "EER" and "recipe" in row["setting"]
    )


def lines(rows):
    """EER rows by line and then by rate; the line as (key, value) pairs.

    A kind that has only one rate, without runs at 0 %, is a line of a point.
    So is a kind without a rate, whose rate is None.
    """
    clean, noisy, own = {}, {}, own_options(rows)
    for row in rows:
        if row.get("figure") != "EER" or "recipe" not in row["setting"]:
            continue
        about = setting_of(row)
        where = {key: row[key] for key in ("trials", "scoring")}
        about["options"] = own(about["options"])
        family = {key: about[key] for key in FAMILY} | where
        if about["kind"] == "none":
            held = clean.setdefault(_text(family), [])
            held.append(row)
        else:
            line = family | {key: about[key] for key in LINE[len(FAMILY) :]}
            rates = noisy.setdefault(_text(line), {})
            rates.setdefault(about["rate"], []).append(row)
    for text, rates in noisy.items():
        line = json.loads(text)
        family = {key: line[key] for key in (*FAMILY, "trials", "scoring")}
        base = clean.get(_text(family))
        points = {0.0: base} if base and None not in rates else {}
        yield line, points | dict(sorted(rates.items()))


def _text(values):
    return json.dumps(values, sort_keys=True)


def slope(seeds):
    """Points by which least-squares lines rise for 0.1 of the rate.

    There is a line for each seed, and all rise alike. So the seeds need not
    have the same rates. ``seeds`` has a pair for each: rates, [rates], and EERs
    in percent, [rates] or [rates, draws].
    """
    rise, spread = 0.0, 0.0
    for rates, eers in seeds:
        centred = np.asarray(rates, dtype=float) - np.mean(rates)
        rise = rise + centred @ np.asarray(eers)
        spread += centred @ centred
    return STEP * rise / spread


def figures(rows, draws, folder):
    """Rows: the mean EER over seeds at each rate, and the slope of each line.

    A slope is that of all seeds with two rates or more. The intervals are over
    speakers. A rate is a share of utterances, sessions or speakers, as the kind
    says; `wrong labels` is the percentage of all labels, the mean of the seeds.
    """
    wrong = {
        (row["system"], row["seed"]): row["value"]
        for row in rows
        if row.get("figure") == "wrong labels"
    }
    for line, points in lines(rows):
        held = {
            rate: {
                one["seed"]: draws.of(folder / one["scores"], line["trials"])
                for one in r
            }
            for rate, r in points.items()
        }
        line |= {"line": line_name(line), "corruption": corruption_name(line)}
        words = f"{line['encoder']} {line['line']} {line['corruption']} "
        words += f"{line['trials']} {line['scoring']}"
        for rate, one in held.items():
            mean, drawn = _means(one)
            about = {"figure": "mean EER", "rate": rate, "wrong labels": 0.0}
            if rate != 0:
                runs = [(row["system"], row["seed"]) for row in points[rate]]
                shares = [wrong[run] for run in runs if run in wrong]
                about["wrong labels"] = np.mean(shares) if shares else None
            at = "" if rate is None else f" at {100 * rate:g} %"
            yield record.derived(
                f"{words}{at} mean EER",
                mean,
                "%",
                interval(drawn),
                points[rate],
                about | line,
                draws.replicates,
            )
        seeds = {}  # their rates
        for rate, seed in ((r, seed) for r in held for seed in held[r]):
            seeds.setdefault(seed, []).append(rate)
        seeds = {seed: rates for seed, rates in seeds.items() if rates[1:]}
        if seeds:
            eers, drawn = (
                slope(
                    (rates, [held[rate][seed][which] for rate in rates])
                    for seed, rates in seeds.items()
                )
                for which in (0, 1)
            )
            used = [one for r in points for one in points[r]]
            yield record.derived(
                f"{words} EER slope",
                eers,
                "points for 0.1 of the rate",
                interval(drawn),
                [one for one in used if one["seed"] in seeds],
                {"figure": "EER slope", "rates": list(points)} | line,
                draws.replicates,
            )


def _means(held):
    """Mean EER over seeds, and the mean of each draw of speakers."""
    eers, drawn = zip(*(held[seed] for seed in sorted(held)), strict=True)
    return np.mean(eers), np.mean(drawn, axis=0)


def line_name(line):
    """The name of a line: loss, options of its own, filter."""
    words = [line["loss"], *_said(line["options"])]
    if line["filter"] != "none":
        words += [f"with {line['filter']}", *_said(line["filter options"])]
    return " ".join(words)


def corruption_name(line):
    """The name of a line's noise."""
    return " ".join([line["kind"], *_said(line["noise"])])


def _said(options):
    """Options in words: `exact`, `min_sessions 2`."""
    words = []
    for key, value in options.items():
        if isinstance(value, dict):
            words += _said(value)
        else:
            words.append(key if value is True else f"{key} {value}")
    return words


def increases(study, rows, draws, folder):
    """Rows: what noise costs one system less what it costs another.

    The seeds are those that all four systems have.
    """
    found = {}
    for row in rows:
        if row.get("figure") == "EER":
            where = found.setdefault((row["trials"], row["scoring"]), {})
            where.setdefault(row["system"], {})[row["seed"]] = row
    for (trials, scoring), systems in found.items():
        for names in study["compare_increases"]:
            each = [systems.get(name, {}) for name in names]
            seeds = sorted(set.intersection(*map(set, each)))
            if not seeds:
                continue
            used = [[one[seed] for seed in seeds] for one in each]
            eers = [
                [draws.of(folder / row["scores"], trials) for row in one]
                for one in used
            ]
            signs = np.array([1.0, -1.0, -1.0, 1.0])
            means = [np.mean([e for e, _ in one]) for one in eers]
            drawn = [np.mean([d for _, d in one], axis=0) for one in eers]
            first, base, other, other_base = names
            yield record.derived(
                f"({first} minus {base}) minus ({other} minus {other_base}) "
                f"{trials} {scoring} EER",
                signs @ np.array(means),
                "points",
                interval(signs @ np.array(drawn)),
                [row for one in used for row in one],
                {
                    "figure": "EER increase difference",
                    "systems": names,
                    "trials": trials,
                    "scoring": scoring,
                },
                draws.replicates,
            )


def suite(rows):
    """The leaderboard: an entry for each run, from the rows of a study."""
    runs, slopes = {}, {}
    for row in rows:
        if row.get("figure") == "EER slope":
            line = {key: row[key] for key in LINE}
            where = slopes.setdefault(_text(line), {})
            cells = where.setdefault(row["trials"], {})
            cells[row["scoring"]] = {
                "points for 0.1 of the rate": row["value"],
                "interval": row["interval"],
            }
        if isinstance(row["setting"], dict) and "recipe" in row["setting"]:
            name = row["setting"]["system"], row["seed"]
            runs.setdefault(name, []).append(row)
    entries, without_shared = [], own_options(rows)
    for (system, _), own in runs.items():
        entry = setting_of(own[0]) | {"system": system}
        line = {key: entry[key] for key in LINE}
        line["options"] = without_shared(line["options"])
        entry |= {"rate reached": None, "lists": {}, "AUC": {}, "training": {}}
        for row in own:
            _add(entry, row)
        entry["slope"] = slopes.get(_text(line), {})
        entry["recipe"] = own[0]["setting"]["recipe"]
        entry["commit"] = own[0]["commit"]
        entries.append(entry)
    return entries


def _add(entry, row):
    """Adds a figure of a run to its entry."""
    figure = row.get("figure", "")
    if figure == "wrong labels":
        entry["rate reached"] = row["value"] / 100
    elif figure == "label AUC":
        entry["AUC"][row["score"]] = row["value"]
    elif figure.startswith("train "):
        entry["training"][figure.removeprefix("train ")] = row["value"]
    elif "trials" in row:
        cells = entry["lists"].setdefault(row["trials"], {})
        cell = cells.setdefault(row["scoring"], {})
        name = "EER %" if figure == "EER" else figure
        cell[name] = row["value"]
        if "interval" in row:
            cell[f"{name} interval"] = row["interval"]
