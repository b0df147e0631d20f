"""report.html with names that want to be more than names: it holds no tag, attribute or address but its own."""

from __future__ import annotations

import functools
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from steady_runs.benchmark import render_report

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</pre></td></title></style><svg onload=alert(1)>",
    "<!-- ",
    "<![CDATA[ ]]>",
    "javascript:alert(1)",
    "{{ 7 * 191 }}{% for %}",
    r"$\frac{",
    "&lt;b&gt;",
    os.fsdecode(b"\xff\xfe.jpg"),
    "line\nbreak\x1b[2J",
]


class Found(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses |= {(value or "")[:23] for name, value in attrs if name in ("src", "href")}

    def handle_data(self, data: str) -> None:
        self.text += data


def page(name: str) -> str:
    results: dict[str, Any] = {key: name for key in ("app", "protocol", "title", "weights", "data")}
    column = name if name.isprintable() else "AP"  # a protocol's own, so printable
    results |= {"columns": [column], "metrics": {column: 1.0}, "untrained": {column: 0.5}, "changes": [name, name]}
    results |= {"classes": {name: 1.0, name + "2": None}, "options": {"data": name, name: [name]}}
    metrics = [{"step": step, "loss": 1.0, "lr": 0.1, column: 1.0} for step in range(3)]
    return render_report(results, metrics, [(name, Image.new("RGB", (4, 4)))])


@functools.cache
def plain_page() -> str:
    return page("plain")


def found(html: str) -> Found:
    parser = Found()
    parser.feed(html)
    parser.close()
    return parser


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_stay_text(name: str, tmp_path: Path) -> None:
    html = page(name)
    plain, seen = found(plain_page()), found(html)
    assert seen.tags == plain.tags
    assert seen.attributes == plain.attributes
    assert {a for a in seen.addresses if not a.startswith("#")} == {"data:image/jpeg;base64,"}
    shown = name.encode(errors="replace").decode()
    assert seen.text.count(shown) >= 8  # title, head, lead (4), classes (2), picture; in "All figures" as JSON
    assert "1337" not in seen.text
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
