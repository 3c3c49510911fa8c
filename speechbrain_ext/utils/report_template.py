"""The Jinja template and the style sheet of an HTML report."""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1rem 1.5rem 3rem;
       font: 15px/1.45 system-ui, "Segoe UI", Roboto, Arial, sans-serif;
       color: #1c2530; background: #fff; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0.5rem 0 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.4rem; padding-top: 0.9rem;
     border-top: 1px solid #d5dbe3; }
p { margin: 0.3rem 0; max-width: 60rem; }
.about, caption, figcaption { color: #55606e; font-size: 0.88rem; }
.row { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start; }
.row > .table { max-width: 100%; }
.row > figure { flex: 1 1 22rem; max-width: 28rem; }
.gallery { display: grid; gap: 0.5rem 2rem; grid-template-columns:
           repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.table, figure { margin: 1rem 0; }
.scroll { overflow-x: auto; }
img { display: block; width: 100%; max-width: 33rem; height: auto; }
caption { text-align: left; padding-bottom: 0.35rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.28rem 0.7rem; text-align: left; vertical-align: top;
         border-bottom: 1px solid #e2e6eb; }
th { border-bottom: 2px solid #8a95a3; vertical-align: bottom; }
.text { min-width: 6.5rem; max-width: 30rem; }
.number { text-align: right; white-space: nowrap; }
td span { color: #55606e; font-size: 0.87em; }
.note { border-left: 4px solid #d98200; background: #fff6e5;
        padding: 0.35rem 0.7rem; margin: 0.5rem 0; }
/* as wide as the table, so that the note does not widen the column */
.row .note { width: 0; min-width: 100%; }
@media (min-width: 641px) { .row .text { max-width: 13rem; } }
@media (max-width: 640px) {
  body { padding: 0.5rem 0.9rem 2rem; }
  th, td { padding: 0.28rem 0.4rem; }
  .cards, .cards caption, .cards tbody, .cards tr, .cards td
    { display: block; max-width: none; }
  .cards thead { display: none; }
  .cards tr { border-bottom: 1px solid #8a95a3; padding: 0.4rem 0; }
  .cards td { border: 0; padding: 0.08rem 0; text-align: right; }
  .cards td:first-child { font-weight: 600; text-align: left; }
  .cards td + td::before
    { content: attr(data-name); float: left; color: #55606e; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr, .note { break-inside: avoid; }
  .row > figure { max-width: 10cm; }
  .gallery { grid-template-columns: 1fr 1fr; }
  .scroll { overflow: visible; }
}
"""

TEMPLATE = """\
{%- macro show(part) -%}
{%- if part.parts -%}
<div class="{{ part.layout }}">
{% for one in part.parts %}{{ show(one) }}{% endfor %}
</div>
{% elif part.columns -%}
<div class="table"><div class="scroll">
<table{% if part.cards %} class="cards"{% endif %}>
{% if part.caption %}<caption>{{ part.caption }}</caption>{% endif %}
<thead><tr>
{%- for name, side in part.columns -%}
<th scope="col" class="{{ side }}">{{ name }}</th>
{%- endfor -%}
</tr></thead>
<tbody>
{% for row in part.rows -%}
<tr>
{%- for name, side, value, interval in row -%}
<td class="{{ side }}" data-name="{{ name }}">{{ value }}
{%- if interval %} <span>{{ interval }}</span>{% endif %}</td>
{%- endfor -%}
</tr>
{% endfor -%}
</tbody></table></div>
{% for note in part.notes %}<p class="note">{{ note }}</p>
{% endfor -%}
</div>
{% elif part.data -%}
<figure><img alt="{{ part.alt }}" src="data:image/png;base64,{{ part.data }}">
<figcaption>{{ part.caption }}</figcaption></figure>
{% else -%}
<p>{{ part.text }}</p>
{% endif -%}
{%- endmacro -%}
<!DOCTYPE html>
<html lang="en"><head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style></head>
<body>
<h1>{{ title }}</h1>
<p class="about">{{ about }}</p>
{% for heading, parts in sections -%}
<section><h2>{{ heading }}</h2>
{% for part in parts %}{{ show(part) }}{% endfor %}
</section>
{% endfor -%}
</body></html>
"""
