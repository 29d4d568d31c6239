# SPDX-License-Identifier: Apache-2.0
"""The HTML of the mails: the words of the text, laid out, and nothing to load or to break."""

from __future__ import annotations

import dataclasses
import html.parser
import logging
import pathlib
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blazar_vmexpire.notices import Alarm, Failures, Notice, Renderer, blocks, samples
from blazar_vmexpire.notices.blocks import Block

URL = "https://cloud.example.org/horizon"
RENDERER = Renderer(dashboard_url=URL, strict=True)
#: Elements that have no end.
VOID = {"meta", "br"}
NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</pre></td></table><b>",
    "x\r\n\r\n    https://evil.example.org\r\n\r\n",
    "javascript:alert(1)",
    "{{ 7*7 }}{% raw %}",
    "<!--",
    "&lt;b&gt;&amp;",
    "</style><style>*{display:none}",
]


class Page(html.parser.HTMLParser):
    """What a mail reader finds in an HTML part; its elements have to be closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open and "title" not in self._open:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def words(self) -> list[str]:
        """Return the words that a person reads, in order."""
        return " ".join(self.texts).split()


def page(notice: Notice, renderer: Renderer = RENDERER) -> Page:
    return Page(str(renderer.render(notice).html))


def names(found: Page) -> list[str]:
    return [tag for tag, _ in found.elements]


@pytest.mark.parametrize(
    "sample", samples.every_kind(), ids=lambda s: f"{s.kind}-{s.on_end_action}-{s.project_name}"
)
def test_html_says_what_the_text_says(sample: Notice) -> None:
    rendered = RENDERER.render(sample)
    assert page(sample).words() == rendered.text.split()


@pytest.mark.parametrize("alarm", samples.ALARMS.values(), ids=samples.ALARMS)
def test_mails_to_operators_say_what_the_text_says(alarm: Alarm | Failures) -> None:
    rendered = RENDERER.render_alarm(alarm)
    assert Page(str(rendered.html)).words() == rendered.text.split()


@pytest.mark.parametrize("those", samples.digests(), ids=["one", "several", "every"])
def test_digests_say_what_their_text_says(those: list[Notice]) -> None:
    rendered = RENDERER.render_digest(those)
    assert Page(str(rendered.html)).words() == rendered.text.split()


def test_nothing_is_loaded_from_anywhere() -> None:
    allowed = {"html", "head", "meta", "title", "style", "body"}
    allowed |= {"table", "tr", "td", "p", "pre", "a", "br"}
    for sample in samples.every_kind():
        source = str(RENDERER.render(sample).html)
        found = Page(source)
        assert set(names(found)) <= allowed
        attributes = {name for _, attrs in found.elements for name in attrs}
        assert attributes.isdisjoint({"src", "background", "srcset", "srcdoc"})
        assert not re.search(r"url\s*\(|@import|@font-face", source)
        links = [attrs["href"] for _, attrs in found.elements if "href" in attrs]
        assert all(str(link).startswith(f"{URL}/project/instances/") for link in links)


def test_dark_and_narrow_screens_are_thought_of() -> None:
    source = str(RENDERER.render(samples.REMINDER).html)
    metas = {attrs.get("name"): attrs.get("content") for _, attrs in Page(source).elements}
    assert metas["color-scheme"] == "light dark"
    assert str(metas["viewport"]).startswith("width=device-width")
    assert "@media (prefers-color-scheme: dark)" in source
    # What must not push the page wider than the screen: nothing has a width in pixels.
    assert not re.search(r'(?<!max-)width(="|: )\d+(px)?[";]', source)


def _luminance(color: str) -> float:
    def linear(part: float) -> float:
        return part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(color[n : n + 2], 16) / 255) for n in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("#111827", "#ffffff"),
        ("#111827", "#f3f4f6"),
        ("#4b5563", "#ffffff"),
        ("#1d4ed8", "#ffffff"),
        ("#f3f4f6", "#1f2937"),
        ("#f3f4f6", "#111827"),
        ("#cbd5e1", "#1f2937"),
        ("#93c5fd", "#1f2937"),
    ],
)
def test_colours_can_be_read(text: str, ground: str) -> None:
    """By the contrast that WCAG 2 asks for (AA), light and dark."""
    source = str(RENDERER.render(samples.REMINDER).html)
    assert re.search(rf"(?<!-)color: {text}", source)
    assert f"background-color: {ground}" in source
    light, dark = sorted((_luminance(text), _luminance(ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


@given(st.text(max_size=60), st.text(max_size=60))
@example(*NASTY[:2])
@example(*NASTY[2:4])
@example(*NASTY[4:6])
@example(*NASTY[6:8])
@example(NASTY[8], NASTY[0])
def test_names_are_text_and_nothing_else(server: str, project: str) -> None:
    plain = dataclasses.replace(samples.REMINDER, kind="moved", reason="why")
    nasty = dataclasses.replace(
        plain, server_name=server, project_name=project, owner_name=server or None, reason=project
    )
    rendered = RENDERER.render(nasty)
    found = Page(str(rendered.html))
    assert found.words() == rendered.text.split()
    # Rows come and go with what is known; of no other element is there one more.
    assert set(names(found)) <= set(names(page(plain)))
    links = [attrs["href"] for tag, attrs in found.elements if tag == "a"]
    page_of_vm = f"{URL}/project/instances/{samples.REMINDER.server_id}/"
    assert links == [f"{page_of_vm}?tab=instance_details__expiration"]


# The parts of a text.


def test_parts_of_a_text() -> None:
    text = (
        blocks.paragraph("word " * 30)
        + "Dear all,\nthis is meant.\n\n    one --two\n      three\n\n\n"
        + "    VM     a\n    Ends   b c\n\n    https://x.example/y\n"
    )
    assert blocks.read(text) == [
        Block("paragraph", [" ".join(["word"] * 30)]),
        Block("paragraph", ["Dear all,", "this is meant."]),
        Block("command", ["one --two", "  three"]),
        Block("table", rows=[["VM", "a"], ["Ends", "b c"]]),
        Block("link", ["https://x.example/y"]),
    ]


@pytest.mark.parametrize(
    "line", ["    javascript:alert(1)", "    see https://x.example", "    a b"]
)
def test_what_is_no_link_is_none(line: str) -> None:
    assert [block.kind for block in blocks.read(line)] == ["command"]


# Operators' templates.


def own(directory: pathlib.Path, **templates: str) -> Renderer:
    for name, text in templates.items():
        (directory / f"{name.replace('_', '.')}.j2").write_text(text)
    return Renderer([str(directory)])


def rendered_html(renderer: Renderer, **changes: Any) -> str:
    return str(renderer.render(dataclasses.replace(samples.REMINDER, **changes)).html)


def test_own_words_are_in_the_html_too(tmp_path: pathlib.Path) -> None:
    renderer = own(tmp_path, footer_txt="Ask <the> desk & wait.", reminder_txt="Subject: x\n\nBye.")
    assert ">Bye.</p>" in rendered_html(renderer)
    assert "Ask &lt;the&gt; desk &amp; wait.</p>" in rendered_html(renderer, kind="moved")


def test_own_layout_is_used_and_escapes_what_it_prints(tmp_path: pathlib.Path) -> None:
    renderer = own(
        tmp_path,
        reminder_html="<p>{{ server_name }}, {{ away(ends_at) }}</p>",
        mail_html='{% extends "builtin/mail.html.j2" %}{% block content %}Ours{% endblock %}',
    )
    assert rendered_html(renderer, server_name="<b>") == "<p>&lt;b&gt;, in 9 days and 4 hours</p>\n"
    assert "Ours" in rendered_html(renderer, kind="moved")
    assert renderer.check() == []


def test_own_layout_that_fails_is_replaced_and_named(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    renderer = own(tmp_path, mail_html="<p>\n{{ sever_name }}")
    with caplog.at_level(logging.ERROR):
        assert rendered_html(renderer) == rendered_html(Renderer())
    assert f"{tmp_path}/mail.html.j2:2: UndefinedError" in caplog.text
    (problem,) = renderer.check()
    assert problem.startswith(f"{tmp_path}/mail.html.j2:2: ")


def test_check_names_layouts_that_are_never_used(tmp_path: pathlib.Path) -> None:
    (problem,) = own(tmp_path, remainder_html="x", ended_html="x").check()
    assert problem.startswith(f"{tmp_path}/remainder.html.j2 is never used")


def test_html_can_be_switched_off() -> None:
    assert Renderer(html=False).render(samples.REMINDER).html is None
