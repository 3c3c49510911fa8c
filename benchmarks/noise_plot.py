#!/usr/bin/env python3
"""Draws EER under label noise, from the rows of a study alone.

    python benchmarks/noise_plot.py benchmarks/records/noise_study.json FOLDER

noise.png has EER against the rate of wrong labels: a row of panels for each
kind of noise, a panel for each trial list and scoring, a line for each loss.
noise_points.png compares all systems at one rate, where some have no line. A
bar is the 95 % interval over speakers of the mean of the seeds.
"""

import argparse
import io
import json
import pathlib
import sys

import numpy as np
import record
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from study_names import in_order, named

from speechbrain_ext.utils.plots import COLOURS, LINES, save_figure

SPREAD = 0.05  # of the axis: bars of one rate stand beside each other


def panels(rows):
    """Mean EERs: {corruption: {condition: {line: {rate: row}}}}."""
    found = {}
    for row in rows:
        if row.get("figure") == "mean EER":
            conditions = found.setdefault(row["corruption"], {})
            place = conditions.setdefault((row["trials"], row["scoring"]), {})
            place.setdefault(row["line"], {})[row["rate"]] = row
    return found


def chosen(rows, stem="noise"):
    """What is drawn by file: {file: {row of panels: {condition: lines}}}."""
    curves, points = {}, {}
    found = panels(rows)
    for corruption, one in found.items():
        for condition, lines in one.items():
            # beside longer lines, two rates are no curve
            least = 3 if max(map(len, lines.values())) > 2 else 2
            for line, rates in lines.items():
                if len(rates) >= least:
                    place = curves.setdefault(corruption, {})
                    place.setdefault(condition, {})[line] = rates
                else:
                    points[corruption, max(rates)] = {}
    for corruption, rate in points:
        for condition, lines in found[corruption].items():
            points[corruption, rate][condition] = {
                line: rates[rate]
                for line, rates in lines.items()
                if rate in rates
            }
    files = {f"{stem}.png": curves, f"{stem}_points.png": points}
    return {name: one for name, one in files.items() if one}


def draw(rows, folder, stem="noise", replace=False):
    """Draws STEM.png and STEM_points.png, each if it has content.

    Files that this project did not write are kept unless `replace` is True: a
    clone does not know who wrote those of its `docs/`.
    """
    write = _replace if replace else save_figure
    functions = {f"{stem}.png": _draw_curves}
    functions[f"{stem}_points.png"] = _draw_points
    for name, found in chosen(rows, stem).items():
        every = (c for one in found.values() for c in one)
        conditions = list(dict.fromkeys(every))
        path = pathlib.Path(folder, name)
        write(functions[name](found, in_order(conditions)), path)


def _panels(counts, width, heights, more, left=1.2, **options):
    """A figure with a grid of panels, and the panels."""
    figure = Figure(
        (left + width * counts[1], more + sum(heights)),
        dpi=130,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    return figure, figure.subplots(
        *counts, squeeze=False, height_ratios=heights, **options
    )


def _bar(row):
    """How far the interval of a row lies below and above its value."""
    low, high = row["interval"]
    return [max(0, row["value"] - low), max(0, high - row["value"])]


def _draw_curves(curves, conditions):
    """EER against the rate, one line for each loss."""
    names = list(
        dict.fromkeys(
            name
            for one in curves.values()
            for lines in one.values()
            for name in lines
        )
    )
    figure, every = _panels(
        (len(curves), len(conditions)),
        2.7,
        [2.7] * len(curves),
        0.5 + 0.25 * -(-len(names) // 4),
        sharey="col",
    )
    handles = {}
    for axes_row, (corruption, one) in zip(every, curves.items(), strict=True):
        axes_row[0].set_ylabel("EER (%)")
        for axes, condition in zip(axes_row, conditions, strict=True):
            axes.set_title(f"{corruption}\n{' '.join(condition)}", fontsize=9)
            axes.grid(color="0.9")
            lines = one.get(condition, {})
            top = 100 * max(max(rates) for rates in lines.values())
            for name, beside in zip(
                lines, np.linspace(-0.5, 0.5, len(lines)), strict=True
            ):
                rates = sorted(lines[name])
                i = names.index(name)
                handles[name] = axes.errorbar(
                    [100 * rate + SPREAD * top * beside for rate in rates],
                    [lines[name][rate]["value"] for rate in rates],
                    np.array([_bar(lines[name][rate]) for rate in rates]).T,
                    color=COLOURS[i % len(COLOURS)],
                    linestyle=LINES[i % len(LINES)],
                    marker="o",
                    markersize=4,
                    linewidth=1.5,
                    capsize=2.5,
                    elinewidth=1.0,
                )
    for axes in every[-1]:
        axes.set_xlabel("rate (%)")
    figure.legend(
        [handles[name] for name in names],
        [named(name) for name in names],
        loc="outside lower center",
        ncols=min(4, len(names)),
        fontsize=9,
    )
    return figure


def _draw_points(points, conditions):
    """EER of all systems at one rate, a line of the picture each."""
    names = {
        where: list(dict.fromkeys(n for c in one.values() for n in c))
        for where, one in points.items()
    }
    figure, every = _panels(
        (len(points), len(conditions)),
        2.6,
        [0.6 + 0.24 * len(one) for one in names.values()],
        0.4,
        0.08 * max(len(named(name)) for one in names.values() for name in one),
    )
    for axes_row, (where, one) in zip(every, points.items(), strict=True):
        for axes, condition in zip(axes_row, conditions, strict=True):
            corruption, rate = where
            at = "" if rate is None else f"{100 * rate:g} %, "
            axes.set_title(
                f"{corruption}\n{at}{' '.join(condition)}", fontsize=9
            )
            for place, name in enumerate(names[where]):
                row = one.get(condition, {}).get(name)
                if row:
                    axes.errorbar(
                        row["value"],
                        place,
                        xerr=np.array([_bar(row)]).T,
                        fmt="o",
                        color=COLOURS[0],
                        markersize=4,
                        capsize=2.5,
                        elinewidth=1.0,
                    )
            axes.set_yticks(range(len(names[where])), [])
            axes.set_ylim(len(names[where]) - 0.5, -0.5)
            axes.grid(color="0.9")
        labels = [named(name) for name in names[where]]
        axes_row[0].set_yticklabels(labels, fontsize=9)
    for axes in every[-1]:
        axes.set_xlabel("EER (%)")
    return figure


def _replace(figure, path):
    """Writes a plot, whoever wrote the one that is there."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    record.write_bytes(path, stream.getvalue())


def main(argv=None):
    """Draws the plots of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args(argv)
    try:
        rows = json.loads(arguments.rows.read_text())
        if not panels(rows):
            raise ValueError(
                f"{arguments.rows} has no run with label noise; run "
                "benchmarks/studies/noise.yaml first."
            )
        draw(rows, arguments.folder)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
