"""Parts of a self-contained HTML document: text, tables, charts. All foreign text is escaped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from nirvana.reporting.figures.chart import Chart

# The browser loads no resource, whatever the document's names contain.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
STYLE = """
body { font-family: system-ui, sans-serif; line-height: 1.5; color: #1c2430; background: #fff; margin: 0 auto;
  max-width: 72rem; padding: 1.5rem; color-scheme: light }
h1 { margin-bottom: 0.2rem } h2 { border-bottom: 1px solid #d5d9e0; margin-top: 2.5rem } h3 { margin-bottom: 0.2rem }
table { border-collapse: collapse; font-size: 0.85rem } th, td { border: 1px solid #d5d9e0; padding: 0.25rem 0.5rem;
  text-align: left; vertical-align: top } .numbers { overflow-x: auto; max-height: 32rem }
.quiet { color: #4d5866; font-size: 0.85rem } .note { border-left: 4px solid #b77d00; padding: 0.2rem 0.8rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f6f8; padding: 0.7rem; font-size: 0.85rem }
pre, .shaded { max-height: 24rem; overflow-y: auto }
nav a { margin-right: 1rem } .shaded { border: 1px solid #d5d9e0; padding: 0.5rem }
"""
SMALL = 12  # rows of a table that are shown without a click


class Document:
    """Collects sections; `html()` joins them, with plotly.js once."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []
        self._sections: list[tuple[str, str]] = []
        self._ids: Iterator[int] = itertools.count(1)

    def section(self, name: str, title: str) -> None:
        """Begin a section."""
        self._sections.append((name, title))
        self._parts.append(f'<h2 id="{escape(name)}">{escape(title)}</h2>')

    def heading(self, text: str) -> None:
        self._parts.append(f"<h3>{escape(text)}</h3>")

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph; `kind` is "quiet" or "note"."""
        if text:
            self._parts.append(f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>")

    def code(self, text: str, summary: str = "") -> None:
        """Preformatted lines, collapsed under a `summary` if given."""
        block = f"<pre>{escape(text)}</pre>"
        self._parts.append(f"<details><summary>{escape(summary)}</summary>{block}</details>" if summary else block)

    def raw(self, html: str) -> None:
        """Trusted HTML, whose foreign parts are escaped."""
        self._parts.append(html)

    def pairs(self, values: Mapping[str, object]) -> None:
        """Names and values, one row each."""
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(cell(value))}</td></tr>" for name, value in values.items()
        )
        self._parts.append(f'<div class="numbers"><table>{rows}</table></div>')

    def table(self, table: pd.DataFrame, *, summary: str = "Numbers") -> None:
        """A table, collapsed if it is long."""
        head = "".join(f"<th>{escape(str(name))}</th>" for name in table.columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(cell(value))}</td>' for value in row)}</tr>"
            for row in table.itertuples(index=False)
        )
        block = f'<div class="numbers"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        if len(table) > SMALL:
            block = f"<details><summary>{escape(summary)} ({len(table):,} rows)</summary>{block}</details>"
        self._parts.append(block)

    def chart(self, chart: Chart | None, protocol: str = "", *, table: bool = True) -> None:
        """The question, the answer, the figure, how to read it, and its numbers; nothing for None."""
        if chart is None:
            return
        self.heading(chart.title)
        self.text(chart.takeaway.replace("**", ""))
        figure = go.Figure(chart.figure).update_layout(template="plotly_white")
        drawn = figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            include_mathjax=False,
            div_id=f"chart-{next(self._ids)}",
            config={"displaylogo": False, "responsive": True, "showSendToCloud": False},
        )
        self._parts.append(f'<div role="img" aria-label="{escape(chart.alt)}">{drawn}</div>')
        self.text(" ".join(part for part in (chart.reading, protocol) if part), "quiet")
        if table:
            self.table(chart.table)

    def html(self) -> str:
        """The whole document."""
        links = "".join(f'<a href="#{escape(name)}">{escape(title)}</a>' for name, title in self._sections)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style>"
            f"<script>{get_plotlyjs()}</script></head>\n<body><h1>{escape(self.title)}</h1><nav>{links}</nav>\n"
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )


def cell(value: object) -> str:
    """A value as text: five digits of a float, every digit of an integer, empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        number = float(value)
        if np.isnan(number):
            return ""
        return f"{number:,.0f}" if number.is_integer() and abs(number) < 1e15 else f"{number:,.5g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {cell(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return str(value)
