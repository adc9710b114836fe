"""README and documentation keep their word: Python blocks run and print what they say, commands exist."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import sgenet.cli
from sgenet.attention import registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^```[ \t]*$(?P<gap>\s*)", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "text", "shell", "yaml"}


class Block(NamedTuple):
    line: int
    language: str
    code: str
    follows: bool  # nothing but blank lines since the block before


def blocks(page: Path) -> Iterator[Block]:
    text, end = page.read_text(encoding="utf-8"), -1
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        yield Block(line, match["language"], match["code"], match.start() == end)
        end = match.end()


def commands(page: Path, program: str) -> Iterator[tuple[int, list[str]]]:
    """Command lines of `program` in shell blocks: the line's number, and the words after the program's name."""
    for block in blocks(page):
        if block.language == "shell":
            for number, line in enumerate(block.code.splitlines(), block.line):
                words = shlex.split(line, comments=True)
                if words[:1] == [program]:
                    yield number, words[1:]


def run(block: Block, page: Path, names: dict[str, object]) -> str:
    out = io.StringIO()
    # The line numbers of a traceback are then those of the page.
    code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
    with contextlib.redirect_stdout(out):
        exec(code, names)
    return out.getvalue()


@pytest.fixture
def untouched_registry(monkeypatch):
    """A page may register a module; other tests must not see it."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))


@pytest.mark.usefixtures("untouched_registry")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_print_what_they_say(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    printed = None
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page.name}:{block.line - 1}: say in which language the block is"
        if block.language == "text" and block.follows and printed is not None:
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(block.code, printed, flags), (
                f"{page.name}:{block.line}: it printed\n{printed}"
            )
        printed = run(block, page, names) if block.language == "python" else None


class WorkBegins(Exception):  # noqa: N818  # no error: the command line has done its part
    pass


@pytest.fixture
def no_work(monkeypatch):
    """The functions that the commands hand over to raise WorkBegins."""

    def begin(*args: object, **more: object) -> None:
        raise WorkBegins

    for function in (
        "classification.training.train",
        "classification.training.resume",
        "classification.evaluation.evaluate",
        "classification.prediction.predict",
        "detection.training.train_detector",
        "detection.training.resume_detector",
        "detection.run_evaluation.evaluate_run",
        "detection.run_evaluation.evaluate_results",
        "detection.prediction.predict_objects",
        "detection.run_comparison.compare_runs",
        "study.running.run_study",
        "bench.measuring.bench",
    ):
        monkeypatch.setattr(f"sgenet.{function}", begin)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_understood(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, words in commands(page, "sgenet"):
        *words, target = (*words[:-2], words[-1]) if ">" in words else (*words, None)
        try:
            status = sgenet.cli.main(words)
        except WorkBegins:
            status = 0
        printed = capsys.readouterr()
        assert status == 0, f"{page.name}:{number}: {printed.err}"
        if target is not None:
            Path(target).write_text(printed.out, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for number, words in commands(page, "make"):
        assert {word for word in words if "=" not in word} <= targets, f"{page.name}:{number}"


def test_every_page_is_in_the_navigation():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = {page for entry in site["nav"] for page in entry.values()}
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text):
        link = "".join(target)
        if "://" not in link:
            assert (page.parent / link).exists(), link
