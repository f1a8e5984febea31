"""One HTML page that contains everything it shows: no scripts, no network, for phone and desk, light and dark.

The markup is in ``page.html`` (a Jinja2 template), the style sheet in ``page.css``.
"""

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from PIL import Image

from .sheet import Picture


class Page:
    """Collects the parts of a page in their order; ``write`` makes the file.

    Text is escaped. Paragraphs, captions and facts may have ``*emphasis*`` and `` `code` `` as in Markdown.

    Args:
        title: title of the page.
        lead: one paragraph below the title.
    """

    def __init__(self, title: str, lead: str):
        self.title = title
        self.lead = lead
        self._sections: list[dict] = [{"heading": "", "parts": []}]

    def section(self, heading: str, *paragraphs: str) -> None:
        """Start a section."""
        self._sections.append({"heading": heading, "parts": []})
        self.text(*paragraphs)

    def heading(self, text: str, *paragraphs: str) -> None:
        """A smaller heading within the section, with paragraphs below it."""
        self._add("heading", text)
        self.text(*paragraphs)

    def text(self, *paragraphs: str) -> None:
        for paragraph in paragraphs:
            self._add("text", paragraph)

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        best: Sequence[str | None] = (),
        left: bool = False,
        marked: Sequence[int] = (),
    ) -> None:
        """A table whose first column names the row.

        Args:
            header: titles of all columns.
            rows: one text for each column.
            best: for each column "max", "min" or None: which number is printed bold. Texts that are not numbers do not
                count. Equal numbers are all bold.
            left: align texts at the left; otherwise they are numbers, at the right, and the names of rows have the
                colours of the lines in charts.
            marked: indices of rows with a coloured background.
        """
        strong = {
            (i, column) for column, sense in enumerate(best) if sense for i in _best([r[column] for r in rows], sense)
        }
        lines = [
            {
                "number": i,
                "marked": i in marked,
                "cells": [(text, (i, column) in strong) for column, text in enumerate(row)],
            }
            for i, row in enumerate(rows)
        ]
        self._add("table", {"header": header, "rows": lines, "left": left})

    def pictures(self, rows: Sequence[Sequence[Picture]], *, columns: int, columns_on_phone: int = 2) -> None:
        """Rows of pictures with captions, ``columns`` side by side, or ``columns_on_phone`` on a narrow screen."""
        self._add("pictures", {"rows": rows, "columns": columns, "columns_on_phone": columns_on_phone})

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """Names with their colours: (name, CSS colour)."""
        self._add("legend", entries)

    def charts(self, charts: Sequence[tuple[str, str]]) -> None:
        """Small charts side by side: (title, SVG), as of ``line_chart``."""
        self._add("charts", charts)

    def facts(self, entries: Sequence[tuple[str, str]]) -> None:
        """A list of terms and their meanings."""
        self._add("facts", entries)

    def notes(self, notes: Sequence[str]) -> None:
        """A list of remarks in small print."""
        self._add("notes", notes)

    def html(self) -> str:
        """The whole page."""
        return _TEMPLATES.get_template("page.html").render(title=self.title, lead=self.lead, sections=self._sections)

    def write(self, path: str | Path) -> Path:
        """Write the page to ``path``; its folder is made if it does not exist."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html(), encoding="utf-8")
        return path

    def _add(self, kind: str, content: object) -> None:
        self._sections[-1]["parts"].append((kind, content))


def data_url(pixels: np.ndarray) -> str:
    """A picture (H,W,3) uint8 RGB as a ``data:`` address of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=86, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _best(texts: list[str], sense: str) -> list[int]:
    numbers = {}
    for i, text in enumerate(texts):
        try:
            numbers[i] = float(text.split()[0])
        except (ValueError, IndexError):
            continue
    target = {"max": max, "min": min}[sense](numbers.values(), default=None)
    return [i for i, number in numbers.items() if number == target] if len(numbers) > 1 else []


def _inline(text: str) -> Markup:
    """Escape, then turn `code` and *emphasis* into elements. Text in code is left as it is."""
    parts = escape(text).split("`")
    parts[::2] = [re.sub(r"\*(\w[^*]*)\*", r"<em>\1</em>", part) for part in parts[::2]]
    parts[1::2] = [f"<code>{part}</code>" for part in parts[1::2]]
    return Markup("".join(parts))


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.filters.update(inline=_inline, data_url=data_url)
