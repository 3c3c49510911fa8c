"""The template and the style sheet of the report."""

import re

import jinja2

from speechbrain_ext.utils.report_template import STYLE, TEMPLATE


def test_template_is_complete_html_without_other_files():
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.from_string(TEMPLATE).render(
        title="T", about="A", style=STYLE, sections=[]
    )
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>")
    assert 'name="viewport" content="width=device-width' in text
    for word in ("<script", "<link", "@import", "url(", "//", "srcset"):
        assert word not in text


def test_only_the_style_sheet_is_not_escaped():
    assert re.findall(r"\{\{([^}]*\|[^}]*)\}\}", TEMPLATE) == [" style | safe "]
    assert "autoescape" not in TEMPLATE


def test_style_sheet_fits_narrow_screens_and_print():
    assert STYLE.count("{") == STYLE.count("}")
    assert "@media (max-width: 640px)" in STYLE
    assert "@media print" in STYLE
    # a picture is never wider than the screen, a table scrolls
    assert re.search(r"img \{[^}]*width: 100%", STYLE)
    assert re.search(r"\.scroll \{ overflow-x: auto", STYLE)
