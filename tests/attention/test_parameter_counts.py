"""How many parameters the modules have, as the table in docs/attention.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sgenet

PAGE = Path(__file__).parents[2] / "docs" / "attention.md"
ROWS = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
IN_WORDS = {"eca", "ge"}  # what they learn depends on more than C, r and G


def as_written(formula: str, **sizes: int) -> float:
    """The value of a formula such as `2 C²/r + 3 C/r`."""
    return eval(re.sub(r"(?<=\d) (?=[CG(])", "*", formula).replace("²", "**2"), {}, sizes)


def test_every_module_has_a_row():
    assert set(ROWS) == set(sgenet.list_attention())


@pytest.mark.parametrize(("channels", "reduction"), [(256, 16), (64, 4)])
@pytest.mark.parametrize("name", sorted(set(ROWS) - IN_WORDS))
def test_the_table_gives_the_number_of_parameters(name, channels, reduction):
    options = {"reduction": reduction} if "r" in ROWS[name] else {"groups": 32} if "G" in ROWS[name] else {}
    module = sgenet.create_attention(name, channels, device="meta", **options)
    assert sum(p.numel() for p in module.parameters()) == as_written(ROWS[name], C=channels, r=reduction, G=32)
