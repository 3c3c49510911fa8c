#!/usr/bin/env python3
"""Writes the tables of the documents from the records.

    python benchmarks/tables.py

`make tables` runs it. What stands between `<!-- table: NAME -->` and
`<!-- end: NAME -->` in README.md and docs/ is what the template
`benchmarks/tables/NAME.md` makes of `benchmarks/records/`. A template gets
its figures by record and row name: `{{ value("losses", "bare layer", 0) }}`.
If a study of label noise has a record, its curves are drawn into docs/, and
`benchmarks/noise_suite.json` is written.
"""

import functools
import json
import pathlib
import re

import jinja2
import noise_plot
import numpy as np
import record
import scale
import study_names
import study_noise

# The records of label noise, and what their pictures are called
NOISE = {"noise_study": "noise", "noise_small_network": "noise_small_network"}
TEMPLATES = pathlib.Path(__file__).parent / "tables"
MARK = re.compile(
    r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end: \2 -->)", re.DOTALL
)


def documents():
    """The documents that may have tables from records."""
    return [record.ROOT / "README.md", *sorted(record.ROOT.glob("docs/*.md"))]


@functools.cache
def rows(name):
    """The rows of a record by their names; none where it is not there."""
    path = record.RECORDS / f"{name}.json"
    if not path.exists():
        return {}
    return {row["name"]: row for row in json.loads(path.read_text())}


def row(name, row_name):
    """A row of a record."""
    if row_name not in rows(name):
        raise ValueError(
            f"The record {name} has no row '{row_name}'; correct the template "
            "or run the benchmark."
        )
    return rows(name)[row_name]


def value(name, row_name, digits=2, times=1):
    """The value of a row, as a text with that many digits."""
    return f"{times * row(name, row_name)['value']:,.{digits}f}"


def source(name):
    """A sentence on where a record comes from."""
    file = f"Record: `benchmarks/records/{name}.json`"
    held = rows(name).values()
    parts = [sorted({one["commit"][:12] for one in held})]
    parts += [
        sorted({one[key] for one in held}) for key in ("machine", "versions")
    ]
    said = "; ".join(", ".join(part) for part in parts)
    changed = "" if all(one["clean"] for one in held) else ", with changes"
    return f"{file}, commit {said}{changed}."


def eers(name):
    """EER rows of a study: {system: {seed: {(trials, scoring): row}}}."""
    found = {}
    for one in rows(name).values():
        if one.get("figure") == "EER":
            seeds = found.setdefault(one["system"], {})
            cells = seeds.setdefault(one["seed"], {})
            cells[one["trials"], one["scoring"]] = one
    return found


def missed(name):
    """A line for each bound of a record that does not hold."""
    return "\n".join(
        f"- {one['name']}: {one['value']:,} {one['unit']}".rstrip()
        + ". The benchmark asks "
        f"for {one['bound']:,}, so this bound is missed."
        for one in rows(name).values()
        if not one.get("holds", True)
    )


def mean(seeds, condition):
    """The mean over the seeds of a system, as a text."""
    return f"{np.mean([one[condition]['value'] for one in seeds.values()]):.2f}"


def spread(runs, condition):
    """The mean of some runs with the lowest and the highest, as a text."""
    values = [one[condition]["value"] for one in runs]
    text = f"{np.mean(values):.3f}"
    if len(values) > 1:
        text += f" [{min(values):.3f}, {max(values):.3f}]"
    return text


def shown(one, sign=""):
    """A value with its interval."""
    low, high = one["interval"]
    return f"{one['value']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def cells(name, figure, *keys):
    """Rows of one figure: {values of the keys: {(trials, scoring): row}}.

    Of a row without trials, the cells are by its score.
    """
    found = {}
    for one in rows(name).values():
        if one.get("figure") == figure:
            values = tuple(
                tuple(one[key]) if isinstance(one[key], list) else one[key]
                for key in keys
            )
            place = found.setdefault(values, {})
            if "trials" in one:
                place[one["trials"], one["scoring"]] = one
            else:
                place[one.get("score")] = one
    return found


def differences(name):
    """Differences of a study: {(system, other): {(trials, scoring): row}}."""
    found = {}
    for one in rows(name).values():
        if one.get("figure") == "EER difference":
            cells = found.setdefault((one["system"], one["other"]), {})
            cells[one["trials"], one["scoring"]] = one
    return found


def seeds(cells):
    """The seeds on both sides of a difference, as a text; once if equal."""
    found = next(iter(cells.values()))["seed"]
    texts = [", ".join(map(str, sorted(one))) for one in found]
    return texts[0] if texts[0] == texts[1] else "; ".join(texts)


@functools.cache
def rendered(name):
    """What a template makes of the records."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.globals |= {
        "rows": rows,
        "row": row,
        "value": value,
        "source": source,
        "missed": missed,
        "eers": eers,
        "mean": mean,
        "shown": shown,
        "spread": spread,
        "differences": differences,
        "seeds": seeds,
        "cells": cells,
        "noise_pictures": noise_pictures,
        "names": study_names.NAMES,
        "named": study_names.named,
        "conditions": study_names.CONDITIONS,
        "corpora": list(scale.CORPORA),
        "scaling": lambda: scale.scaling(lambda *of: row(*of)["value"]),
    }
    text = environment.get_template(f"{name}.md").render().strip() + "\n"
    return re.sub("\n{3,}", "\n\n", text)


def filled(text):
    """A document with all its tables as they should be."""
    return MARK.sub(lambda m: m[1] + rendered(m[2]) + m[4], text)


def noise_pictures(study):
    """The files that ``write_noise`` draws of a study."""
    return list(noise_plot.chosen(rows(study).values(), NOISE[study]))


def write_noise():
    """Draws the curves of label noise and writes the leaderboard."""
    entries = []
    for study, stem in NOISE.items():
        held = list(rows(study).values())
        noise_plot.draw(held, record.ROOT / "docs", stem, replace=True)
        entries += study_noise.suite(held)
    if entries:
        suite = json.dumps(entries, indent=1)
        record.write_text(record.ROOT / "benchmarks/noise_suite.json", suite)


def main():
    """Writes all tables; says which documents changed."""
    write_noise()
    for path in documents():
        text = path.read_text("utf-8")
        new = filled(text)
        if new != text:
            record.write_text(path, new)
            print(f"{path.relative_to(record.ROOT)} changed")


if __name__ == "__main__":
    main()
