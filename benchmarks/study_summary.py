"""A study's summary: Markdown, CSV and plots, from its rows alone."""

import csv
import io
import json

import matplotlib
import noise_plot
import numpy as np
import study_noise
from scipy.stats import norm
from study_differences import by_condition

from speechbrain_ext.utils.files import atomic_path, atomic_write

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

TICKS = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
COLUMNS = (
    *("name", "value", "unit", "low", "high", "bound", "holds", "system"),
    *("other", "trials", "scoring", "figure", "seed", "commit", "clean"),
    *("date", "machine", "versions", "minutes", "command"),
)


def markdown(name, rows):
    """The summary's text."""
    found = by_condition(rows)
    commits = sorted({row["commit"][:12] for row in rows})
    lines = [f"# Study {name}", "", f"Commit: {', '.join(commits)}.", ""]
    lines += [
        "EER in %. In brackets: the 95 % interval over speakers of each seed.",
        "",
    ]
    conditions = list(found)
    lines.append(_line(["system", "seed", *map(" ".join, conditions)]))
    lines.append("|---" * (2 + len(conditions)) + "|")
    systems = dict.fromkeys(s for one in found.values() for s in one)
    for system in systems:
        by_seed = {}
        for condition in conditions:
            for row in found[condition].get(system, []):
                by_seed.setdefault(row["seed"], {})[condition] = row
        for seed, cells in by_seed.items():
            shown = [_shown(cells.get(condition)) for condition in conditions]
            lines.append(_line([system, seed, *shown]))
        if len(by_seed) > 1:
            shown = [
                f"**{np.mean([r['value'] for r in found[c][system]]):.2f}**"
                for c in conditions
            ]
            lines.append(_line([system, "mean", *shown]))
    others = [row for row in rows if row.get("figure") == "EER difference"]
    if others:
        lines += ["", "Paired differences of the means over seeds, in points:"]
        lines += ["", _line(["difference", *map(" ".join, conditions)])]
        lines.append("|---" * (1 + len(conditions)) + "|")
        for pair in dict.fromkeys((r["system"], r["other"]) for r in others):
            cells = {
                (row["trials"], row["scoring"]): row
                for row in others
                if (row["system"], row["other"]) == pair
            }
            shown = [_shown(cells.get(c), sign="+") for c in conditions]
            lines.append(_line([" - ".join(pair), *shown]))
    failing = [row["name"] for row in rows if not row.get("holds", True)]
    lines += ["", "Bounds that do not hold: " + (", ".join(failing) or "none.")]
    return "\n".join(lines) + "\n"


def _line(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def _shown(row, sign=""):
    """A value with its interval."""
    if row is None:
        return ""
    said = f"{row['value']:{sign}.2f}"
    if "interval" in row:
        low, high = row["interval"]
        said += f" [{low:{sign}.2f}, {high:{sign}.2f}]"
    return said


def table(rows):
    """All rows as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, COLUMNS, extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    for row in rows:
        low, high = row.get("interval", ("", ""))
        writer.writerow({**row, "low": low, "high": high})
    return stream.getvalue()


def eer_plot(found, path):
    """EER of each system and seed with its interval, a panel a condition."""
    figure, panels = plt.subplots(
        1,
        len(found),
        figsize=(1.5 + 2.6 * len(found), 5),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    systems = list(dict.fromkeys(s for one in found.values() for s in one))
    for axes, (condition, by_system) in zip(
        panels[0], found.items(), strict=True
    ):
        for place, system in enumerate(systems):
            rows = by_system.get(system, [])
            for number, row in enumerate(rows):
                shift = 0.15 * (number - (len(rows) - 1) / 2)
                low, high = row.get("interval", [row["value"]] * 2)
                axes.plot([low, high], [place + shift] * 2, "C0", lw=1)
                axes.plot(row["value"], place + shift, "C0o", ms=4)
            if len(rows) > 1:
                mean = np.mean([row["value"] for row in rows])
                axes.plot([mean] * 2, [place - 0.3, place + 0.3], "0.2", lw=2)
        axes.set_title(" ".join(condition), fontsize=9)
        axes.set_xlabel("EER %")
        axes.grid(axis="x", alpha=0.3)
    panels[0, 0].set_yticks(range(len(systems)), systems)
    panels[0, 0].invert_yaxis()
    _save(figure, path)


def det_plot(by_system, title, path):
    """DET curves of each system's first seed."""
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    for number, (system, rows) in enumerate(by_system.items()):
        points = np.clip(np.array(rows[0]["det"]), 1e-4, 1 - 1e-4)
        style = ("-", "--", ":", "-.")[number // 10 % 4]
        label = f"{system}, seed {rows[0]['seed']}"
        axes.plot(*norm.ppf(points).T, style, label=label, lw=1.2)
    shown = [f"{100 * tick:g}" for tick in TICKS]
    axes.set_xticks(norm.ppf(TICKS), shown)
    axes.set_yticks(norm.ppf(TICKS), shown)
    axes.set_xlim(norm.ppf([0.001, 0.6]))
    axes.set_ylim(norm.ppf([0.001, 0.6]))
    axes.set_xlabel("false acceptances %")
    axes.set_ylabel("false rejections %")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    _save(figure, path)


def _save(figure, path):
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


def write(study, rows, folder):
    """Writes summary.md, summary.csv, eer.png and a DET plot a condition.

    A study with label noise also gets noise_suite.json and plots of it.
    """
    with atomic_write(folder / "summary.md") as stream:
        stream.write(markdown(study["name"], rows))
    with atomic_write(folder / "summary.csv") as stream:
        stream.write(table(rows))
    found = by_condition(rows)
    if not found:
        return
    eer_plot(found, folder / "eer.png")
    if study_noise.is_noisy(rows):
        with atomic_write(folder / "noise_suite.json") as stream:
            json.dump(study_noise.suite(rows), stream, indent=1)
        noise_plot.draw(rows, folder)
    for (trials, scoring), by_system in found.items():
        name = f"det_{trials}_{scoring.replace(' ', '_')}.png"
        det_plot(by_system, f"{trials}, {scoring}", folder / name)
