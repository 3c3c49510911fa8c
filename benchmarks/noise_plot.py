#!/usr/bin/env python3
"""Draws EER against the rate of wrong labels, from the rows of a study alone.

    python benchmarks/noise_plot.py benchmarks/records/noise_study.json FILE.png

A row of panels for each kind of noise, a panel for each trial list and
scoring, a line for each loss with its filter. A bar is the 95 % interval over
speakers of the mean of the seeds.
"""

import argparse
import json
import pathlib
import sys

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from speechbrain_ext.utils.plots import COLOURS, LINES, save_figure

SHIFT = 0.35  # percent: bars of one rate stand beside each other


def panels(rows):
    """Mean EERs: {kind: {condition: {label: {rate: row}}}}."""
    found = {}
    for row in rows:
        if row.get("figure") == "mean EER":
            conditions = found.setdefault(row["corruption"], {})
            place = conditions.setdefault((row["trials"], row["scoring"]), {})
            place.setdefault(row["line"], {})[row["rate"]] = row
    return found


def draw(rows, path):
    """Draws the plot; nothing if no row has a mean EER under noise."""
    found = panels(rows)
    if not found:
        return
    conditions = list(dict.fromkeys(c for one in found.values() for c in one))
    labels = dict.fromkeys(
        label
        for one in found.values()
        for cells in one.values()
        for label in cells
    )
    styles = {
        label: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": LINES[i // len(COLOURS) % len(LINES)],
            "marker": "o",
            "markersize": 4,
            "linewidth": 1.5,
            "capsize": 2.5,
            "elinewidth": 1.0,
        }
        for i, label in enumerate(labels)
    }
    below = 0.5 + 0.22 * -(-len(labels) // 4)  # inches, of the legend
    figure = Figure(
        (1 + 2.7 * len(conditions), 0.3 + 2.7 * len(found) + below),
        dpi=130,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    every = figure.subplots(
        len(found), len(conditions), squeeze=False, sharey="col"
    )
    handles = {}
    for axes_row, (kind, one) in zip(every, found.items(), strict=True):
        for axes, condition in zip(axes_row, conditions, strict=True):
            _panel(axes, one.get(condition, {}), styles, handles)
            axes.set_title(f"{kind}\n{' '.join(condition)}", fontsize=9)
        axes_row[0].set_ylabel("EER (%)")
    for axes in every[-1]:
        axes.set_xlabel("labels corrupted (%)")
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=min(4, len(labels)),
        fontsize=9,
    )
    save_figure(figure, path)


def _panel(axes, lines, styles, handles):
    """One line for each loss, with bars."""
    for place, (label, points) in enumerate(lines.items()):
        rates = sorted(points)
        values = [points[rate]["value"] for rate in rates]
        ends = [points[rate]["interval"] for rate in rates]
        shift = SHIFT * (place - (len(lines) - 1) / 2)
        bars = [
            [max(0, v - low) for v, (low, _) in zip(values, ends, strict=True)],
            [
                max(0, high - v)
                for v, (_, high) in zip(values, ends, strict=True)
            ],
        ]
        handles[label] = axes.errorbar(
            [100 * rate + shift for rate in rates],
            values,
            bars,
            **styles[label],
        )
    axes.grid(color="0.9")
    axes.set_axisbelow(True)


def main(argv=None):
    """Draws the plot of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=pathlib.Path)
    parser.add_argument("picture", type=pathlib.Path)
    arguments = parser.parse_args(argv)
    try:
        rows = json.loads(arguments.rows.read_text())
        if not panels(rows):
            raise ValueError(
                f"{arguments.rows} has no run with label noise; run "
                "benchmarks/studies/noise.yaml first."
            )
        draw(rows, arguments.picture)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
