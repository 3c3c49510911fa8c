"""Every figure of the documents is in a record that a program wrote."""

import copy
import importlib
import json
import re
import sys

import pytest
from conftest import ROOT

RECORDS = sorted((ROOT / "benchmarks" / "records").glob("*.json"))
# where measured figures stand: outside the marks these have none
MEASURED = ("README.md", "docs/results.md", "docs/benchmarks.md")
NOT_MEASURED = (
    r"3\.1[0-3]",  # Python
    r"3\.7 hours",  # MiniVox' size
    r"Apache 2\.0",
)


@pytest.fixture
def tables(monkeypatch):
    """The program that writes the tables."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    modules = ("record", "tables", "noise_plot", "scale", "study_names")
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("tables")
    for name in modules:
        sys.modules.pop(name, None)


def figures_outside(tables, text):
    """Decimal numbers that are neither in a table from records nor in code."""
    text = tables.MARK.sub("", text)
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]+`|\]\([^)]*\)", "", text)
    for known in NOT_MEASURED:
        text = re.sub(known, "", text)
    return re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)", text)


def test_there_are_records(tables):
    names = {path.stem for path in RECORDS}
    assert len(names) >= 9


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_where_it_comes_from(tables, path):
    assert tables.record.faults(json.loads(path.read_text())) == []


def test_differences_of_label_filters_follow_from_their_rows():
    """A filter measured alone replaces the row of no filter, for all."""
    path = ROOT / "benchmarks" / "records" / "label_filters.json"
    rows = {r["name"]: r["value"] for r in json.loads(path.read_text())}
    names = [name for name in rows if name.endswith(" less that without")]
    assert len(names) >= 4
    for name in names:
        words = name.removesuffix(" less that without")
        eer, _, own = words.partition(" with ")
        loss = "sub-centers" if own == "SubCenterDrop" else "AAM"
        without = rows[f"{eer} without a filter, {loss}"]
        assert rows[words] - without == pytest.approx(rows[name], abs=0.11)


def test_rows_of_another_setting_are_never_replaced(tables):
    rows = [{"name": "a", "value": 1, "setting": {"epochs": 1}}]
    same = [{"name": "a", "value": 2, "setting": {"epochs": 1}}]
    other = [{"name": "a", "value": 3, "setting": {"epochs": 2}}]
    assert tables.record.merged(rows, same) == same
    with pytest.raises(ValueError, match="'epochs': 1"):
        tables.record.merged(rows, other)
    assert tables.record.merged([], other) == other


class TestOfARow:
    """A row without its origin is refused."""

    @pytest.fixture
    def good(self, tables):
        row = tables.record.row("a", 1.234, "s", bound=2)
        return row | tables.record.provenance(seed=3)

    def test_a_whole_row(self, tables, good):
        assert tables.record.faults([good]) == []
        assert good["holds"] is True and good["seed"] == 3

    @pytest.mark.parametrize(
        "key",
        [
            *("name", "value", "unit", "commit", "clean", "command"),
            *("seed", "date", "machine", "versions", "minutes"),
        ],
    )
    def test_a_key_that_is_missing(self, tables, good, key, tmp_path):
        row = {k: v for k, v in good.items() if k != key}
        assert f"lacks {key}" in tables.record.faults([row])[0]
        with pytest.raises(ValueError, match=key):
            tables.record.write([row], tmp_path / "a.json")
        assert not (tmp_path / "a.json").exists()

    @pytest.mark.parametrize("commit", ["", "abc", None, 7])
    def test_a_commit_that_is_none(self, tables, good, commit):
        assert tables.record.faults([good | {"commit": commit}])

    def test_a_bound_without_holds(self, tables, good):
        del good["holds"]
        assert "bound" in tables.record.faults([good])[0]

    def test_a_name_that_comes_twice(self, tables, good):
        assert "twice" in tables.record.faults([good, good])[0]


class TestFinish:
    """What the end of a benchmark writes."""

    @pytest.fixture
    def finish(self, tables, tmp_path, monkeypatch):
        """Ends a benchmark whose only row is `a`; returns the file's rows."""
        path = tmp_path / "a.json"

        def finishing(value, *flags):
            argv = ["/somewhere/a.py", f"--json={path}", *flags]
            monkeypatch.setattr(sys, "argv", argv)
            row = tables.record.row("a", value, "s", bound=5)
            with pytest.raises(SystemExit) as ended:
                tables.record.finish([row], path, 7)
            assert ended.value.code == (value > 5)
            return json.loads(path.read_text())

        finishing.path = path
        return finishing

    def test_rows(self, tables, finish):
        (row,) = finish(3)
        assert tables.record.faults([row]) == []
        assert row["seed"] == 7 and "setting" not in row
        assert row["command"].endswith("a.py --json=a.json")
        assert finish(6)[0]["holds"] is False

    def test_rows_of_other_names_stay_if_they_say_where_from(self, finish):
        (row,) = finish(3)
        kept, older = {**row, "name": "b"}, {"name": "c", "value": 1}
        finish.path.write_text(json.dumps([kept, older]))
        assert [one["name"] for one in finish(4)] == ["b", "a"]

    def test_a_quick_run_replaces_nothing(self, finish):
        finish(3)
        before = finish.path.read_bytes()
        with pytest.raises(ValueError, match="another setting"):
            finish(4, "--quick")
        assert finish.path.read_bytes() == before
        finish.path.unlink()
        assert finish(4, "--quick")[0]["setting"] == "quick"


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda path: path.name,
)
def test_make_tables_would_change_nothing(tables, path):
    text = path.read_text("utf-8")
    assert tables.filled(text) == text, "run `make tables`"


def test_there_are_tables(tables):
    marks = [
        mark
        for path in tables.documents()
        for mark in tables.MARK.findall(path.read_text("utf-8"))
    ]
    assert len(marks) >= 11


def test_a_figure_that_a_hand_altered_is_found(tables):
    text = (ROOT / "README.md").read_text("utf-8")
    table = next(m[0] for m in tables.MARK.finditer(text))
    figure = re.findall(r"\d+\.\d\d", table)[0]
    other = f"{float(figure) - 1:.2f}"
    altered = text.replace(table, table.replace(figure, other, 1))
    assert altered != text
    assert tables.filled(altered) == text


@pytest.mark.parametrize("name", MEASURED)
def test_no_measured_figure_stands_outside_the_tables(tables, name):
    assert figures_outside(tables, (ROOT / name).read_text("utf-8")) == []


def test_a_figure_outside_is_found(tables):
    text = "It has 12.34 % there, with `--rate=0.1`, of 3.7 hours."
    assert figures_outside(tables, text) == ["12.34"]


class TestTables:
    """What templates are given."""

    def test_a_row_that_is_not_there(self, tables):
        with pytest.raises(ValueError, match="no such row"):
            tables.value("losses", "no such row")

    def test_a_study(self, tables, monkeypatch):
        monkeypatch.setattr(tables, "rows", lambda name: STUDY)
        text = "<!-- table: minivox_short -->\n<!-- end: minivox_short -->"
        made = tables.filled(text)
        assert "| C-SphereFace2 | 2 | 11.00 | 11.00 | 11.00 | 11.00 |" in made
        assert "-1.00 [-2.00, +0.50]" in made
        assert "commit 0123456789ab; 2 cores; Python 3" in made
        compared = "<!-- table: minivox_compared -->\n"
        compared += "<!-- end: minivox_compared -->"
        assert "-1.00 [-2.00, +0.50]" in tables.filled(compared)
        whole = "<!-- table: minivox -->\n<!-- end: minivox -->"
        assert "| C-SphereFace2 | mean | **11.00** |" in tables.filled(whole)

    def test_a_study_of_noise(self, tables, monkeypatch, tmp_path):
        rows, none = noise_rows(), {}
        found = {"noise_study": rows}
        monkeypatch.setattr(tables, "rows", lambda name: found.get(name, none))
        text = "<!-- table: noise -->\n<!-- end: noise -->"
        made = tables.filled(text)
        cell = "12.00 [11.00, 14.00]"
        assert f"| symmetric exact | AAM | 40 % | 35.2 % | 2 | {cell} |" in made
        assert "| C-SphereFace2 with ORGate | 40 % |  | 2 |" in made
        row = "| symmetric exact | AAM | 0 40 | 2 | +0.50 [-1.00, +1.00] |"
        assert row in made
        assert "| `c` - `c_0` | `a` - `a_0` | 2 | -0.50 [-1.00," in made
        assert "| `aam_40` | 42 | 0.912 |" in made
        (tmp_path / "noise.png").write_text("as a clone has it")
        with pytest.raises(FileExistsError, match="was not written by"):
            tables.noise_plot.draw(rows.values(), tmp_path)
        tables.noise_plot.draw(rows.values(), tmp_path, replace=True)
        assert (tmp_path / "noise.png").read_bytes()[1:4] == b"PNG"
        drawn = sorted(path.name for path in tmp_path.glob("*.png"))
        assert drawn == ["noise.png", "noise_points.png"]
        assert all(f"]({name})" in made for name in drawn)
        assert made.count("\n| symmetric exact | AAM | 40 %") == 1
        assert "has not been run yet" in made
        tables.rendered.cache_clear()
        found["noise_small_network"] = rows
        both = tables.filled(text)
        assert both.count("\n| symmetric exact | AAM | 40 %") == 2
        assert "not been run" not in both
        assert "](noise_small_network_points.png)" in both

    def test_two_rates_beside_longer_lines_are_points(self, tables):
        rates = {"a": (0, 0.2, 0.4), "b": (0, 0.4)}
        place = {"figure": "mean EER", "corruption": "symmetric"}
        place |= {"trials": "veri_O", "scoring": "cosine"}
        rows = [
            place | {"line": line, "rate": rate}
            for line, every in rates.items()
            for rate in every
        ]
        drawn, condition = tables.noise_plot.chosen(rows), ("veri_O", "cosine")
        curves, points = drawn["noise.png"], drawn["noise_points.png"]
        assert list(curves["symmetric"][condition]) == ["a"]
        assert list(points) == [("symmetric", 0.4)]
        assert list(points["symmetric", 0.4][condition]) == ["a", "b"]
        alone = [row for row in rows if row["line"] == "b"]
        assert list(tables.noise_plot.chosen(alone)) == ["noise.png"]

    def test_large_corpora(self, tables, monkeypatch):
        known, origin = tables.rows, {"commit": "0123456789ab", "clean": True}
        origin |= {"machine": "2 cores", "versions": "Python 3"}
        values = {
            "the recipe": 50,
            "start to first step": 10,
            "start to first step: peak memory": 500,
            "1,000,000 rows: start to first step": 30,
            "1,000,000 rows: peak memory": 1500,
        }
        made = {name: {"value": v, **origin} for name, v in values.items()}
        monkeypatch.setattr(
            tables, "rows", lambda n: made if n == "training" else known(n)
        )
        text = "<!-- table: scaling -->\n<!-- end: scaling -->"
        text = tables.filled(text)
        line = re.search(r"\| memory of a process .*\|", text)[0]
        # 461,538 utterances at 1,000 MB a million, and 500 MB before
        assert "| 962 MB | 47 GB | 47 GB |" in line
        line = re.search(r"\| encoder and all else.*\|", text)[0]
        assert "| 2.6 h | 11 days | 11 days |" in line
        assert "| wav files on disk | 115 GB | 12 TB | 12 TB |" in text
        monkeypatch.setattr(tables, "rows", lambda name: {})
        tables.rendered.cache_clear()
        assert tables.rendered("scaling") == "Not measured yet.\n"

    def test_a_study_of_noise_that_was_not_run(self, tables, monkeypatch):
        monkeypatch.setattr(tables, "rows", lambda name: {})
        text = "<!-- table: noise -->\n<!-- end: noise -->"
        assert tables.filled(text).count("has not been run yet") == 2


def noise_rows():
    """Rows of a study of label noise."""
    source = {"commit": "0123456789abcdef", "clean": True, "setting": {}}
    source |= {"machine": "2 cores", "versions": "Python 3"}
    source |= {"trials": "veri_O", "scoring": "cosine", "seed": [42, 43]}
    aam = {"line": "aam", "corruption": "symmetric exact"}
    ends = {"interval": [11.0, 14.0], "figure": "mean EER"}
    gate = {**aam, "line": "csphereface2 with ORGate"}
    small = {"interval": [-1.0, 1.0]}
    rows = [
        {**aam, **ends, "rate": 0.0, "value": 12.0, "wrong labels": 0.0},
        {**aam, **ends, "rate": 0.4, "value": 12.0, "wrong labels": 35.25},
        {**gate, **ends, "rate": 0.4, "value": 13.0, "wrong labels": None},
        {**aam, **small, "figure": "EER slope", "rates": [0.0, 0.4]},
        {**small, "figure": "EER increase difference"},
    ]
    rows[3]["value"], rows[4]["value"] = 0.5, -0.5
    rows[4]["systems"] = ["c", "c_0", "a", "a_0"]
    found = {str(place): one | source for place, one in enumerate(rows)}
    area = {"figure": "label AUC", "system": "aam_40", "seed": 42}
    area |= {"score": "cosine", "value": 0.9123}
    origin = {key: source[key] for key in list(source)[:5]}
    return found | {"area": area | origin}


def study_rows():
    """Rows of a study as its runner writes them."""
    source = {"commit": "0123456789abcdef", "clean": True}
    source |= {"machine": "2 cores", "versions": "Python 3"}
    rows = {}
    for trials in ("veri_O", "veri_H"):
        for scoring in ("cosine", "AS-norm"):
            about = {"trials": trials, "scoring": scoring, **source}
            for system in ("csphereface2", "published_csphereface2"):
                for seed, value in ((42, 10.0), (43, 12.0)):
                    one = {"value": value, "interval": [9.0, 13.0]}
                    one |= {"figure": "EER", "system": system, "seed": seed}
                    rows[f"{system} {seed} {trials} {scoring}"] = one | about
            one = {"value": -1.0, "interval": [-2.0, 0.5], "seed": [[42]] * 2}
            one |= {"figure": "EER difference", "system": "csphereface2"}
            one |= {"other": "published_csphereface2"}
            rows[f"difference {trials} {scoring}"] = one | about
    return copy.deepcopy(rows)


STUDY = study_rows()
