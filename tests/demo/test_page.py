"""The page: parsed as HTML, self-contained, escaped; charts: points where they belong."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fapn_d2.visualization.line_chart import line_chart
from fapn_d2.visualization.page import Page, data_url
from fapn_d2.visualization.sheet import Picture

VOID = {"meta", "img", "path", "link", "br"}


class Reader(HTMLParser):
    """Collects elements and refuses tags that do not close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def assert_self_contained(text: str) -> None:
    """Nothing on the page is fetched from anywhere."""
    reader = Reader(text)
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in reader.elements)
    for tag, attributes in reader.elements:
        for name in ("src", "href", "srcset", "poster", "data"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes[name][:80])
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    assert "url(" not in style and "@import" not in style
    assert "http" not in re.sub(r"data:[^']*", "", text)


@pytest.fixture
def page():
    page = Page("A < B", "Lead with *emphasis* & `x < y*z*`.")
    page.section("One", "First.", "2 * 3 = 6")
    rows = [["FPN", "10.0", "1.5 M", "nan"], ["FaPN", "12.0", "1.2 M", "7"]]
    page.table(["network", "AP", "size", "time"], rows, best=(None, "max", "min", "min"))
    picture = Picture(np.zeros((4, 6, 3), np.uint8), "it's <one>")
    page.section("Two")
    page.pictures([[picture, picture], [picture]], columns=3)
    page.legend([("sky", "#00f")])
    page.charts([("loss", line_chart({"a": [(0, 1), (10, 0.5)]}, title="loss", x_label="iteration"))])
    page.facts([("command", "`make demo`")])
    return page


def test_page_is_whole_and_self_contained(page, tmp_path):
    path = page.write(tmp_path / "deep" / "page.html")
    text = path.read_text()
    assert text == page.html() and text.startswith("<!doctype html>")
    assert_self_contained(text)
    reader = Reader(text)
    assert len(reader.all("section")) == 2 and len(reader.all("img")) == 3 and len(reader.all("svg")) == 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.all("meta")
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    assert "prefers-color-scheme: dark" in style and "max-width: 640px" in style
    assert style.count("{") == style.count("}")


def test_text_is_escaped_and_marked(page):
    text = page.html()
    assert "<title>A &lt; B</title>" in text and "it&#x27;s &lt;one&gt;" in text
    assert "<em>emphasis</em> &amp; <code>x &lt; y*z*</code>." in text
    assert "<p>2 * 3 = 6</p>" in text  # a single star is a star


def test_table_marks_the_better_number(page):
    body = re.search(r"<tbody>(.*?)</tbody>", page.html())[1]
    assert re.findall(r"<b>(.*?)</b>", body) == ["12.0", "1.2 M"]  # one number alone is not the best of anything
    assert "class='line-0'>FPN" in body and "class='line-1'>FaPN" in body


def test_equal_numbers_are_all_bold():
    page = Page("t", "l")
    page.table(["n", "AP"], [["a", "3.0"], ["b", "3.0"], ["c", "-"]], best=(None, "max"))
    assert page.html().count("<b>3.0</b>") == 2 and "<td>-</td>" in page.html()


def test_pictures_survive_as_data():
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, 6:] = (200, 30, 60)
    url = data_url(pixels)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")))))
    assert image.shape == pixels.shape
    assert abs(image[:, 8:].astype(int) - pixels[:, 8:]).max() < 12


def test_chart_places_points():
    svg = line_chart({"a": [(0, 0.0), (100, 4.0)], "b": [(50, 2.0), (50, 3.0)]}, title="l & m", x_label="it")
    reader = Reader(svg)
    labels = [t for t in reader.text if t.strip()]
    assert labels[:5] == ["0", "25", "50", "75", "100"] and labels[5] == "it"
    assert labels[6:] == ["0", "1", "2", "3", "4", "a", "b"]
    lines = {a["style"].split("stroke: ")[1].split(";")[0]: a["d"] for a in reader.all("path") if "var(" in a["style"]}
    (left, bottom), (right, top) = _points(lines["var(--first)"])  # from the lower left to the upper right corner
    frame = reader.all("rect")[0]
    x, y, width, height = (float(frame[key]) for key in ("x", "y", "width", "height"))
    assert (left, bottom, right, top) == pytest.approx((x, y + height, x + width, y), abs=0.01)
    middle = (left + right) / 2, (bottom + top) / 2
    assert _points(lines["var(--second)"])[0] == pytest.approx(middle, abs=0.01)
    assert reader.all("svg")[0]["aria-label"] == "l & m"
    assert not any("id" in a for tag, a in reader.elements if tag != "clippath")


def _points(path):
    numbers = [float(v) for v in re.findall(r"[\d.]+", path)]
    return list(zip(numbers[::2], numbers[1::2]))


@pytest.mark.parametrize(
    ("lines", "message"),
    [({"a": []}, "'loss' has no points"), ({"a": [(0, float("nan"))]}, "'loss' has a point that is not finite")],
)
def test_chart_refuses(lines, message):
    with pytest.raises(ValueError, match=message):
        line_chart(lines, title="loss", x_label="it")


@pytest.mark.parametrize("top", [1e-4, 0.3, 1.0, 7.3, 1234.0])
def test_chart_ticks_reach_the_top(top):
    svg = line_chart({"a": [(0, 0), (3, top)]}, title="t", x_label="x")
    y = [float(v) for v in re.findall(r"text-anchor: end; [^>]*>([\d.e+-]+)<", svg)]
    assert 2 <= len(y) <= 5 and y[0] == 0 and y[-1] >= top * (1 - 1e-9) and y[-2] < top
