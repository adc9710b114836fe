"""The report: one safe, self-contained file that says every figure; and how a real browser shows it."""

import dataclasses
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_networks import make_networks

from sgenet.demo.report import render, write_report
from sgenet.demo.result import DemoResult
from sgenet.demo.table import figures, summary


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="session")
def html(contents):
    return render(contents)


@pytest.fixture(scope="session")
def page(html):
    return Page(html)


def test_needs_nothing_from_outside(html, page):
    assert not re.search(r"https?://|@import|url\(", html)
    assert not {"script", "iframe", "object", "embed", "base"} & set(page.tags)
    sources = [v for _, name, v in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert sources
    assert all(value.startswith("data:") for value in sources)


def test_hostile_names_stay_text(page):
    assert '"><script>alert(1)</script>' in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "sgenet demo --output 'runs & <demo>'" in page.text
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_every_figure_of_the_table_is_there(contents, page):
    rows = figures(contents.networks)
    cells = [words for row in rows for cell in row.cells for words in (cell.value, cell.detail) if words]
    assert len(cells) > 40
    assert [words for words in cells if words not in page.text] == []
    for shown in ("88.2 ± 0.7", "89.0", "75,160", "12.24", "0.50", "1.61", "1.55 to 1.69"):
        assert shown in cells


def test_every_run_can_be_repeated_from_the_report(contents, page):
    for network in contents.networks:
        for run in network.runs:
            assert run.command in page.text


def test_pictures_have_words_for_who_cannot_see_them(page):
    images = [i for i, tag in enumerate(page.tags) if tag == "img"]
    assert len(images) > 30
    assert sum(tag == "img" and name == "alt" and value != "" for tag, name, value in page.attributes) == len(images)
    labels = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert any("88.9" in label or "89.1" in label for label in labels)
    drawn = sum(tag == "svg" for tag in page.tags)
    hidden = sum(tag == "svg" and name == "aria-hidden" for tag, name, _ in page.attributes)
    assert len(labels) + hidden == drawn


def test_every_seed_is_a_dot_with_its_value(html):
    for seed, value in [(0, 87.9), (1, 89.0), (2, 87.6), (0, 89.1), (2, 88.4)]:
        assert f"<title>seed {seed}: {value:.1f}%</title>" in html


def test_the_answer_is_the_first_thing_said(page):
    assert page.text.index("three seeds cannot settle") < page.text.index("The figures")


@pytest.mark.parametrize(
    "top1", [([88.0], [88.0], [88.0]), ([0.0, 0.0], [100.0, 100.0], [50.0, 50.0])], ids=["one seed", "extremes"]
)
def test_renders_without_spread(contents, top1):
    text = render(dataclasses.replace(contents, networks=make_networks(*top1), gallery=None))
    assert "nan" not in re.sub(r"data:[^\"]*", "", text).lower()
    assert "Where SGE looks" not in text


def test_is_replaced_whole(contents, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(contents, path)
    good = path.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(contents, path)
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_summary_is_one_table_for_an_80_column_terminal(contents, tmp_path):
    result = DemoResult(tmp_path, tmp_path / "report.html", contents.networks, trained=9)
    lines = summary(result).splitlines()
    assert lines[0].split() == ["plain", "SE", "SGE"]
    assert all(len(line) <= 80 for line in lines[: lines.index("") - 1])
    assert any(line.startswith("Top-1, % (mean ± std)") and "88.2 ± 0.7" in line for line in lines)
    assert lines[-1] == f"Report: {tmp_path / 'report.html'}"


# --- in a browser -----------------------------------------------------------------------------------------------------


def find_browser():
    return next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser():
    path = find_browser()
    if os.environ.get("SGENET_REQUIRE_BROWSER") != "1":
        pytest.importorskip("playwright", reason="playwright is not installed")
        if path is None:
            pytest.skip("no Chromium on PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [400, 800, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_it_without_complaint(browser, contents, tmp_path, width, scheme):
    path = write_report(contents, tmp_path / "report.html")
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints, requests = [], []
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.on("dialog", lambda dialog: complaints.append(dialog.message))
    view.on("request", lambda request: requests.append(request.url))
    view.goto(path.as_uri())
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    broken = view.evaluate("[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length")
    assert broken == 0
    assert view.evaluate(CONTRAST) >= 4.5
    view.close()


# Least contrast, by WCAG's formula, of the text colours against the two backgrounds.
CONTRAST = """() => {
  const style = getComputedStyle(document.documentElement);
  const light = name => {
    const hex = style.getPropertyValue(name).trim();
    const [r, g, b] = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16) / 255)
      .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrasts = [];
  for (const back of ['--paper', '--card'])
    for (const front of ['--ink', '--soft', '--net0', '--net1', '--net2']) {
      const [high, low] = [light(back), light(front)].sort((a, b) => b - a);
      contrasts.push((high + 0.05) / (low + 0.05));
    }
  return Math.min(...contrasts);
}"""
