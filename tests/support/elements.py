"""The elements of a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Elements(HTMLParser):
    """Collects what a browser would load, and all ids."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.levels: list[int] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.levels += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        named = dict(attrs)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action", "data")]
        self.ids += [named["id"] or ""] if "id" in named else []
        self.images += [named] if tag == "img" else []


def parse(text: str) -> Elements:
    elements = Elements()
    elements.feed(text)
    return elements
