"""The report: one safe, self-contained file that says every figure; and how a real browser shows it."""

import csv
import io
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_studies import ALIKE, ALONG_NOISE, NONE, ONE, TOP1, WIN, along_noise, analysed, costs, times

from sgenet.errors import RunError
from sgenet.study.definition import Factor, Level
from sgenet.study.report import render, write_reports
from sgenet.study.sections import Sections
from sgenet.study.table import cells_csv, columns, rows_csv
from sgenet.study.wording import answer, courses, sentences

MANY = {"none": [80.0, 81.0], **{f"reduction-{2**i}": [80.0 + i / 7, 81.0 + i / 5] for i in range(11)}}
REASON = "the loss of epoch 3 is nan"


def kinds():
    """Studies as different as they come."""
    return {
        "spread": analysed(TOP1),
        "one seed": analysed(ONE),
        "alike": analysed(ALIKE),
        "extremes": analysed({"none": [0.0, 0.0], "se": [100.0, 100.0], "sge": [50.0, 50.0]}),
        "nothing finished": analysed(NONE),
        "only the baseline": analysed({"none": [88.0, 89.0], "se": [], "sge": []}),
        "failed": analysed({**TOP1, "sge": []}, {f"attention=sge, seed={seed}": REASON for seed in range(3)}),
        "no baseline": analysed({**TOP1, "none": []}, {"attention=none, seed=0": REASON}),
        "many levels": analysed(MANY, levels=tuple(MANY)),
        "trend": along_noise(),
        "trend begun": along_noise({name: values[:1] for name, values in ALONG_NOISE.items() if "2" not in name}),
        "circumstances": analysed(ALONG_NOISE, noise=("0", "1", "2")),
        "wiring": analysed(WIN, wiring=True),
    }


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.words, self.style = [], [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.style = tag == "style"

    def handle_endtag(self, tag):
        self.style = False

    def handle_data(self, data):
        if not self.style:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="session")
def html(hostile, hostile_costs, sections):
    return render(hostile, hostile_costs, sections)


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
    for words in (
        '"><script>alert(1)</script>',  # a level, and a class
        'it\'s "sge"',
        '<img src=x onerror=alert(1)> & "quotes"',
        "Is <script>alert(2)</script> better?",
        "<i>stated</i>",
        "a <paper>",
        "<u>on</u> ImageNet",
        "<s>Much</s>.",
        "22.<9>",
        "<b>no</b> memory & 'more'",
        "a <GPU>",
        "cat <b>&",
        "Noise with <names>.",
        "attention=<sge>-seed=0",
    ):
        assert words in page.text
    assert not {"i", "u", "s", "paper", "names", "sge", "gpu"} & set(page.tags)
    assert page.tags.count("img") == sum(
        value.startswith("data:") for _, name, value in page.attributes if name == "src"
    )
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_every_figure_of_the_table_is_there(hostile, hostile_costs, page):
    table = columns(hostile, hostile_costs)
    words = [text for column in table for cell in column.cells for text in (cell.value, cell.detail) if text]
    words += [text for column in table for text in (column.title, column.note, column.detail) if text]
    assert len(words) > 40
    assert [text for text in words if re.sub(r"\s+", " ", text) not in page.text] == []
    for shown in ("88.17 ± 0.74", "75,160", "12.24", "5.08"):
        assert shown in words


def test_every_training_can_be_repeated_from_the_report(hostile, page):
    commands = [result.command for row in hostile.rows for result in row.results.values()]
    assert len(commands) == 8
    assert [command for command in commands if command not in page.text] == []


def test_measured_times_are_shown(page, sections):
    for ratio in sections.times.infer.values():
        assert f"{ratio.median:.2f} {ratio.lower:.2f} to {ratio.upper:.2f}" in page.text
    assert sections.times.method in page.text


def test_pictures_have_words_for_who_cannot_see_them(page):
    images = page.tags.count("img")
    assert images > 30
    assert sum(tag == "img" and name == "alt" and value != "" for tag, name, value in page.attributes) == images
    labels = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert any("88.8, 89.4, 87.1" in label for label in labels)
    hidden = sum(tag == "svg" and name == "aria-hidden" for tag, name, _ in page.attributes)
    assert len(labels) + hidden == page.tags.count("svg")


def test_every_seed_is_a_marker_with_its_value(html):
    for seed, value in [(0, 87.9), (1, 89.0), (2, 87.6), (0, 89.1), (1, 88.7)]:
        assert f"<title>seed {seed}: {value:.2f}%</title>" in html


def spaced(text):
    """As `Page.text` has it."""
    return re.sub(r"\s+", " ", text)


def test_the_answer_is_the_first_thing_said():
    analysis = analysed(WIN)
    text = Page(render(analysis, costs(analysis.definition))).text
    said = answer(analysis)
    assert text.index(spaced(said)) < text.index("The figures")
    for sentence in [*sentences(analysis), *courses(analysis)]:
        assert spaced(sentence) in text


def test_a_trend_is_answered_and_drawn():
    analysis = along_noise()
    text = Page(render(analysis, costs(analysis.definition))).text
    assert spaced(answer(analysis)) in text
    assert "Along noise" in text
    assert "trends included" in text
    assert "trends included" not in Page(render(analysed(TOP1), {})).text


def test_what_is_promised_is_said_of_each_question_by_itself(tmp_path):
    write_reports(analysed(WIN), {}, tmp_path)
    for name in ("report.html", "report.md"):
        assert "second question, with 5% of its own" in spaced((tmp_path / name).read_text())


def test_a_wiring_check_concludes_nothing():
    text = Page(render(analysed(WIN, wiring=True), {})).text
    assert "no conclusion" in text
    assert "significantly" not in text
    assert "to be found significant" not in text


def test_failed_trainings_are_told():
    analysis = kinds()["failed"]
    text = Page(render(analysis, {})).text
    assert text.count(REASON) == 3
    assert "So far, 6 of 9 trainings" in text


@pytest.mark.parametrize("kind", list(kinds()))
@pytest.mark.parametrize("counted", [True, False], ids=["costs", "no costs"])
def test_renders_whatever_there_is(kind, counted):
    analysis = kinds()[kind]
    html = render(analysis, costs(analysis.definition) if counted else {})
    page = Page(html)
    assert not re.search(r"\bnan\b|\binf\b|\bUndefined\b|\bNone\b(?! of)", re.sub(REASON, "", html))
    rows = len(analysis.rows)
    assert page.tags.count("tr") == 1 + rows
    assert "Where SGE looks" not in page.text
    assert "The data" not in page.text


def test_what_has_no_place_on_the_page_is_left_out(hostile):
    text = Page(render(hostile, {})).text
    assert "Accuracy against cost" not in text
    assert "Measured times" not in text


def test_measured_times_need_no_costs_that_differ():
    # where circumstances cost nothing there are no charts of costs, but the times were measured all the same
    analysis = along_noise()
    found = Sections(times=times(analysis.definition))
    assert "Measured times" in Page(render(analysis, costs(analysis.definition), found)).text


def test_writes_the_tables_beside_the_page(hostile, hostile_costs, sections, tmp_path):
    path = write_reports(hostile, hostile_costs, tmp_path, sections)
    assert path == tmp_path / "report.html"
    written = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    assert sorted(written) == ["cells.csv", "comparisons.csv", "report.html", "report.md"]
    assert written["cells.csv"] == cells_csv(hostile)
    assert written["comparisons.csv"] == rows_csv(hostile, hostile_costs)
    assert len(list(csv.DictReader(io.StringIO(written["cells.csv"])))) == 8
    for words in ("88.17 ± 0.74", "a <paper>", "no significant difference", "failed:", "Settings: "):
        assert words in written["report.md"]


def test_settings_of_every_training_are_those_that_every_training_has(tmp_path):
    levels = {
        "none": {"attention": "none", "attention_options": {}, "lr": 0.1, "crop": "pad"},
        "4": {"attention": "sge", "attention_options": {"groups": 4, "eps": 1e-4}, "lr": 0.2, "crop": "none"},
        "8": {"attention": "sge", "attention_options": {"groups": 8, "eps": 1e-4}, "lr": 0.3, "crop": "pad"},
    }
    factor = Factor("attention", tuple(Level(name, settings) for name, settings in levels.items()))
    write_reports(analysed({"none": [80.0], "4": [81.0], "8": [82.0]}, factors=(factor,)), {}, tmp_path)
    said = (tmp_path / "report.md").read_text().partition("Settings: ")[2].strip().split("; ")
    assert {"data: shapes", "model: resnet8_cifar", "attention_options: eps 0.0001", "pad: 4", "flip: 0.5"} < set(said)
    assert {"optimizer: sgd", "momentum: 0.9", "schedule: cosine", "warmup_epochs: 0.5", "seeds: 0"} < set(said)
    assert not {text.partition(":")[0] for text in said} & {"attention", "lr", "crop"}


def test_is_replaced_whole(hostile, hostile_costs, tmp_path, monkeypatch):
    write_reports(hostile, hostile_costs, tmp_path)
    good = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(RunError, match="disk full"):
        write_reports(analysed(WIN), {}, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == good


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


@pytest.mark.parametrize("width", [400, 760, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_it_without_complaint(browser, hostile, hostile_costs, sections, tmp_path, width, scheme):
    path = write_reports(hostile, hostile_costs, tmp_path, sections)
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


@pytest.mark.parametrize("width", [400, 760, 1100])
@pytest.mark.parametrize("kind", ["spread", "extremes", "failed", "many levels", "trend", "trend begun"])
def test_no_words_of_a_chart_leave_it(browser, tmp_path, width, kind):
    analysis = kinds()[kind]
    path = write_reports(analysis, costs(analysis.definition), tmp_path)
    view = browser.new_page(viewport={"width": width, "height": 900})
    view.goto(path.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate("document.querySelectorAll('svg text').length") > 20
    assert view.evaluate(OUTSIDE) == []
    view.close()


@pytest.mark.parametrize("kind", ["failed", "trend"])
def test_the_whole_table_is_seen_on_a_wide_screen(browser, tmp_path, kind):
    analysis = kinds()[kind]
    path = write_reports(analysis, costs(analysis.definition), tmp_path)
    view = browser.new_page(viewport={"width": 1280, "height": 900})
    view.goto(path.as_uri())
    assert view.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.scroll'))") <= 0
    view.close()


@pytest.mark.parametrize("kind", ["spread", "trend"])
def test_prints_on_pages(browser, tmp_path, kind):
    analysis = kinds()[kind]
    path = write_reports(analysis, costs(analysis.definition), tmp_path)
    view = browser.new_page(viewport={"width": 680, "height": 900})  # A4 without its margins
    view.goto(path.as_uri())
    view.emulate_media(media="print")
    assert view.evaluate("document.documentElement.scrollWidth") <= 680, "the table is cut off"
    assert view.evaluate(OUTSIDE) == []
    printed = view.pdf(prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12
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
    for (const front of ['--ink', '--soft', ...Array.from({length: 10}, (_, i) => `--net${i}`)]) {
      const [high, low] = [light(back), light(front)].sort((a, b) => b - a);
      contrasts.push((high + 0.05) / (low + 0.05));
    }
  return Math.min(...contrasts);
}"""

# The words of charts that are shown and stand out of their box by more than a pixel.
OUTSIDE = """() => [...document.querySelectorAll('svg text')].filter(text => {
  const [own, box] = [text, text.ownerSVGElement].map(e => e.getBoundingClientRect());
  return own.width && (own.left < box.left - 1 || own.right > box.right + 1
    || own.top < box.top - 1 || own.bottom > box.bottom + 1);
}).map(text => `${text.textContent} in ${text.ownerSVGElement.getAttribute('aria-label').slice(0, 40)}`)"""
