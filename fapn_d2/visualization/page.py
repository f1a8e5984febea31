"""One HTML page that holds everything it shows: no scripts, no network, for phone and desk, light and dark."""

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from .page_style import STYLE
from .sheet import Picture


class Page:
    """Collects the parts of a page in their order; ``write`` makes the file.

    Text is escaped. Texts may have ``*emphasis*`` and `` `code` `` as in Markdown, nothing else.

    Args:
        title: of the page.
        lead: one paragraph under it.
    """

    def __init__(self, title: str, lead: str):
        self.title = title
        self._parts = [f"<header><h1>{escape(title)}</h1><p class='lead'>{_inline(lead)}</p></header>"]
        self._open = False

    def section(self, heading: str, *paragraphs: str) -> None:
        """Start a section."""
        self._close()
        self._open = True
        self._parts.append(f"<section><h2>{escape(heading)}</h2>")
        self.text(*paragraphs)

    def text(self, *paragraphs: str) -> None:
        self._parts += [f"<p>{_inline(p)}</p>" for p in paragraphs]

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], *, best: Sequence[str | None] = ()) -> None:
        """A table whose first column names the row.

        Args:
            header: of every column.
            rows: a text a column.
            best: for each column "max", "min" or None: which number to print bold. Texts that are no numbers are left
                out, and equal ones are all bold.
        """
        strong = {
            (i, column) for column, sense in enumerate(best) if sense for i in _best([r[column] for r in rows], sense)
        }
        head = "".join(f"<th scope='col'>{escape(h)}</th>" for h in header)
        body = "".join(
            "<tr>" + "".join(_cell(i, j, text, (i, j) in strong) for j, text in enumerate(row)) + "</tr>"
            for i, row in enumerate(rows)
        )
        self._parts.append(
            f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def pictures(self, rows: Sequence[Sequence[Picture]], *, columns: int, columns_on_phone: int = 2) -> None:
        """Rows of pictures with captions, ``columns`` side by side; on narrow screens ``columns_on_phone``."""
        self._parts.append(f"<div class='pictures' style='--columns:{columns};--columns-phone:{columns_on_phone}'>")
        for row in rows:
            self._parts.append("<div class='row'>" + "".join(map(_figure, row)) + "</div>")
        self._parts.append("</div>")

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """Names with their colours: (name, CSS colour)."""
        chips = "".join(f"<li><i style='background:{escape(color)}'></i>{escape(name)}</li>" for name, color in entries)
        self._parts.append(f"<ul class='legend'>{chips}</ul>")

    def charts(self, charts: Sequence[tuple[str, str]]) -> None:
        """Small charts side by side: (title, SVG)."""
        cells = "".join(f"<figure><figcaption>{escape(t)}</figcaption>{svg}</figure>" for t, svg in charts)
        self._parts.append(f"<div class='charts'>{cells}</div>")

    def facts(self, entries: Sequence[tuple[str, str]]) -> None:
        """A list of names and what they are."""
        rows = "".join(f"<dt>{escape(k)}</dt><dd>{_inline(v)}</dd>" for k, v in entries)
        self._parts.append(f"<dl>{rows}</dl>")

    def html(self) -> str:
        """The whole page."""
        self._close()
        return (
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width, initial-scale=1'>"
            "<meta name='color-scheme' content='light dark'>"
            f"<title>{escape(self.title)}</title><style>\n{STYLE}</style></head>\n<body><main>\n"
            + "\n".join(self._parts)
            + "\n</main></body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page to ``path``, whose folder is made if need be."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html(), encoding="utf-8")
        return path

    def _close(self) -> None:
        if self._open:
            self._parts.append("</section>")
            self._open = False


def data_url(pixels: np.ndarray) -> str:
    """A picture (H,W,3) uint8 RGB as a ``data:`` address of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=86, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _figure(picture: Picture) -> str:
    h, w = picture.pixels.shape[:2]
    image = f"<img src='{data_url(picture.pixels)}' width='{w}' height='{h}' alt='{escape(picture.caption)}'>"
    return f"<figure>{image}<figcaption>{_inline(picture.caption)}</figcaption></figure>"


def _cell(row: int, column: int, text: str, strong: bool) -> str:
    if column == 0:
        return f"<th scope='row' class='line-{row}'>{escape(text)}</th>"
    return f"<td><b>{escape(text)}</b></td>" if strong else f"<td>{escape(text)}</td>"


def _best(texts: list[str], sense: str) -> list[int]:
    numbers = {}
    for i, text in enumerate(texts):
        try:
            numbers[i] = float(text.split()[0])
        except (ValueError, IndexError):
            continue
    target = {"max": max, "min": min}[sense](numbers.values(), default=None)
    return [i for i, number in numbers.items() if number == target] if len(numbers) > 1 else []


def _inline(text: str) -> str:
    """Escape, then turn `code` and *emphasis* into elements. What stands in code is left as it is."""
    parts = escape(text).split("`")
    parts[::2] = [re.sub(r"\*(\w[^*]*)\*", r"<em>\1</em>", part) for part in parts[::2]]
    parts[1::2] = [f"<code>{part}</code>" for part in parts[1::2]]
    return "".join(parts)
