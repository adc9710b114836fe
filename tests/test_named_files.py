"""YAML files by name: what is found, and what is refused in one clear line."""

from __future__ import annotations

import pytest

from sgenet.errors import ConfigError, UnknownNameError
from sgenet.named_files import NamedFiles, read_yaml


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.yaml").write_text("epochs: 3\n", encoding="utf-8")
    return NamedFiles("recipe", tmp_path)


def test_a_file_is_found_by_its_name_and_by_its_path(folder, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("epochs: 4\n", encoding="utf-8")
    assert folder.names() == ["small"]
    assert read_yaml(folder.find("small")) == {"epochs": 3}
    assert folder.find(str(own)) == own


@pytest.mark.parametrize("name", ["smal", "", "a" * 5000, "a\0b", "."])
def test_a_name_of_nothing_is_refused(folder, name):
    with pytest.raises(UnknownNameError, match="there is no recipe and no file"):
        folder.find(name)


@pytest.mark.parametrize(
    "text",
    [
        "a: 2020-13-45",
        "a: !!int x",
        "a: !!bool x",
        "a: !!timestamp x",
        "[" * 3000,
        "a: \0",
        "a: [1",
        "? [a]\n: b",
    ],
    ids=["date", "int", "bool", "timestamp", "deep", "nul", "open", "unhashable"],
)
def test_what_yaml_cannot_read_is_one_clear_line(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.yaml cannot be read as YAML: ") as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)


def test_what_is_no_mapping_or_says_something_twice_is_refused_in_its_own_words(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("- a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.yaml must hold lines of `setting: value`, not list"):
        read_yaml(file)
    file.write_text("a: 1\na: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.yaml: 'a' stands twice in what begins in line 1"):
        read_yaml(file)
