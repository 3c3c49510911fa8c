"""The study of label noise: its leaderboard, its lines and their slopes."""

import importlib
import json

import numpy as np
import pytest
from study_repository import STUDY, records


def noisy(seeds=(1, 2)):
    """The systems and the queue of a study with two rates of noise."""
    noise = {"kind": "symmetric", "exact": True}
    systems, names = {}, ["aam", "c"]
    for name, recipe in zip(names, ["aam", "csphereface2"], strict=True):
        recipe = {"recipe": f"resnet_{recipe}_small.yaml"}
        systems[name] = recipe
        for share in (0.2, 0.4):
            options = {"label_noise": {**noise, "rate": share}}
            if name == "c":
                options["loss"] = {"positive_weight": 0.6}
            key = f"{name}_{round(100 * share)}"
            systems[key] = {**recipe, "options": options}
    systems["c"]["options"] = {"loss": {"positive_weight": 0.6}}
    return {
        **STUDY,
        "label_report": True,
        "systems": systems,
        "queue": [{"systems": list(systems), "seeds": list(seeds)}],
        "compare": [["c_40", "aam_40"]],
        "compare_increases": [["c_40", "c", "aam_40", "aam"]],
    }


def test_a_study_of_noise_has_a_leaderboard(call, study, tmp_path):
    assert call(noisy(), "--jobs=2", "--replicates=50") == 0
    out = tmp_path / "out"
    _, rows = records(out)
    assert study.record.faults(rows) == []
    by_name = {row["name"]: row for row in rows}
    row = by_name["c_40 seed 2 label AUC cosine"]
    assert row["value"] == 0.9 and "RUNS/c_40_2/labels" in row["command"]
    assert by_name["c_40 seed 2 train filter AUC"]["value"] == 0.75
    assert not (out / "runs" / "c_1" / "labels").exists()
    # the clean runs are the rate 0
    line = "resnet csphereface2 positive_weight 0.6 symmetric exact veri_O "
    line += "cosine"
    means = [by_name[f"{line} at {rate} % mean EER"] for rate in (0, 20, 40)]
    slope = by_name[f"{line} EER slope"]
    expected = (means[2]["value"] - means[0]["value"]) / 4
    assert slope["value"] == pytest.approx(expected, abs=1e-3)
    assert slope["rates"] == [0.0, 0.2, 0.4] and slope["seed"] == [1, 2]
    assert [row["wrong labels"] for row in means] == [0.0, 25.0, 25.0]
    low, high = means[1]["interval"]
    assert low <= means[1]["value"] <= high
    name = "(c_40 minus c) minus (aam_40 minus aam) veri_O cosine EER"
    assert len(by_name[name]["interval"]) == 2
    suite = json.loads((out / "noise_suite.json").read_text())
    assert len(suite) == 12
    entry = next(e for e in suite if e["system"] == "c_40" and e["seed"] == 2)
    assert entry["encoder"] == "resnet" and entry["loss"] == "csphereface2"
    assert entry["kind"] == "symmetric" and entry["rate"] == 0.4
    assert entry["filter"] == "none" and entry["rate reached"] == 0.25
    assert entry["training"] == {"filter AUC": 0.75}
    assert entry["AUC"] == {"cosine": 0.9} and len(entry["commit"]) == 40
    assert entry["lists"]["veri_O"]["cosine"]["EER %"] == 20.0
    assert entry["lists"]["veri_O"]["cosine"]["minDCF 0.01"] == 0.5
    found = entry["slope"]["veri_O"]["cosine"]
    assert found["points for 0.1 of the rate"] == slope["value"]
    clean = next(e for e in suite if e["system"] == "c")
    assert clean["kind"] == "none" and clean["rate"] == 0.0
    assert (out / "noise.png").read_bytes().startswith(b"\x89PNG")


def test_a_kind_without_a_rate_stands_alone(study):
    noise = importlib.import_module("study_noise")
    parts = [{"kind": "symmetric", "rate": 0.1}]
    rows = [
        {
            **{"figure": "EER", "trials": "O", "scoring": "cosine", "seed": 1},
            "value": value,
            "setting": {"recipe": "resnet_aam_small.yaml", "options": options},
        }
        for value, options in (
            (10.0, {}),
            (11.0, {"label_noise": {"kind": "symmetric", "rate": 0}}),
            (25.0, {"label_noise": {"kind": "mixture", "kinds": parts}}),
            (15.0, {"label_noise": {"kind": "symmetric", "rate": 0.2}}),
        )
    ]
    found = {line["kind"]: points for line, points in noise.lines(rows)}
    values = {
        kind: {rate: [row["value"] for row in one] for rate, one in p.items()}
        for kind, p in found.items()
    }
    assert values == {
        "mixture": {None: [25.0]},
        "symmetric": {0.0: [10.0, 11.0], 0.2: [15.0]},
    }


def test_slopes_match_the_definition(study):
    noise = importlib.import_module("study_noise")
    rates, eers = [0.0, 0.2, 0.4, 0.6], [10.0, 12.0, 13.0, 19.0]
    # the normal equations of a line
    n, sx, sy = 4, sum(rates), sum(eers)
    sxy = sum(x * y for x, y in zip(rates, eers, strict=True))
    sxx = sum(x * x for x in rates)
    expected = 0.1 * (n * sxy - sx * sy) / (n * sxx - sx * sx)
    assert noise.slope([(rates, eers)]) == pytest.approx(expected)
    both = np.array([eers, [2 * value for value in eers]]).T
    found = noise.slope([(rates, both)])
    assert found == pytest.approx([expected, 2 * expected])
    # two seeds: a common rise, and a level for each
    seeds = [(rates, eers), ([0.0, 0.4], [20.0, 21.0])]
    table = [
        [rate, *(float(seed == other) for other in (0, 1))]
        for seed, (held, _) in enumerate(seeds)
        for rate in held
    ]
    fit = np.linalg.lstsq(np.array(table), [*eers, 20.0, 21.0], rcond=None)[0]
    assert noise.slope(seeds) == pytest.approx(0.1 * fit[0])


def test_filters_and_their_options_are_named(study):
    noise = importlib.import_module("study_noise")
    for chosen, name, options in (
        (None, "none", {}),
        ("!new:a.b.ORGate {top: 3}", "ORGate", {"given": "{top: 3}"}),
        ("!name:a.b.LossGate", "LossGate", {}),
        ({"kind": "ORGate", "top_k": 3}, "ORGate", {"top_k": 3}),
    ):
        assert noise.filter_name(chosen) == name
        assert noise.filter_options(chosen) == options
