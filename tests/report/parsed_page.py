"""A page of the report as elements and text, for tests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from pipeline.report.html import render

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass
class Element:
    """An element with all text inside it."""

    tag: str
    attributes: dict[str, str]
    parents: list[Element]
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts)).strip()

    def inside(self, tag: str) -> bool:
        return any(parent.tag == tag for parent in self.parents)


class Page(HTMLParser):
    """Collects elements and text, and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.stack: list[Element] = []
        self.elements: list[Element] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag, attributes):
        element = Element(tag, dict(attributes), list(self.stack))
        self.elements.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(Element(tag, dict(attributes), list(self.stack)))

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop().tag == tag, f"</{tag}> closes nothing, at {self.getpos()}"

    def handle_data(self, data):
        if any(element.tag == "style" for element in self.stack):
            return
        self.texts.append(data)
        for element in self.stack:
            element.texts.append(data)

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]

    def with_id(self, name: str) -> Element:
        (found,) = [element for element in self.elements if element.attributes.get("id") == name]
        return found

    def section(self, name: str) -> Element:
        """Return the section whose heading has this id."""
        (found,) = [element for element in self.all("section") if element.attributes["aria-labelledby"] == name]
        return found

    def rows(self, caption: str) -> list[list[str]]:
        """Return the texts of the cells of the table with this caption, row by row."""
        captions = [element for element in self.all("caption") if element.text == caption]
        assert len(captions) == 1, f"{len(captions)} tables are called {caption!r}"
        table = captions[0].parents[-1]
        cells = [element for element in self.all("th", "td") if table in element.parents]
        rows = [element for element in self.all("tr") if table in element.parents]
        return [[cell.text for cell in cells if row in cell.parents] for row in rows]


def page_of(audit, run_dir, samples_per_finding: int = 12, image_budget: float = 8) -> Page:
    return Page(render(audit, run_dir, samples_per_finding=samples_per_finding, image_budget=image_budget))
