"""`sgenet bench`, `doctor`, `models` and `recipes`: what there is, and how fast it is."""

from __future__ import annotations

import json
from pathlib import Path

from sgenet.bench.environment import ALLOCATORS, prepare
from sgenet.bench.result import COLUMNS, add_rows, check_file
from sgenet.bench.settings import BenchSettings
from sgenet.classification.recipes import RECIPES, list_recipes, recipe_summary
from sgenet.cli.parsing import parser_of
from sgenet.errors import UnknownNameError
from sgenet.named_files import read_yaml

__all__ = ["bench_command", "doctor_command", "models_command", "recipes_command"]


def bench_command(words: list[str]) -> int:
    """Run `sgenet bench` with the words behind it; returns the exit status."""
    parser = parser_of("bench", description="Time a network plain, with attention and with unfused attention, in turn.")
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", default="resnet50", help="any of `sgenet models` (resnet50)"
    )
    parser.add_argument("--attention", metavar="A,B", help="modules to put into it (sge,se)")
    parser.add_argument("--module", metavar="A", help="time this module by itself instead: sge or se")
    parser.add_argument("--mode", default="infer", help="infer, or train: forward and backward (infer)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (float32)")
    parser.add_argument("--batch", type=int, default=8, help="images (8)")
    parser.add_argument("--size", type=int, default=224, help="their side, pixels (224)")
    parser.add_argument("--layout", default="channels_last", help="channels_last or contiguous (channels_last)")
    parser.add_argument("--compile", action="store_true", help="compare what torch.compile makes of the networks")
    parser.add_argument("--optimize", action="store_true", help="send every network through sgenet.optimize before")
    parser.add_argument("--freeze", action="store_true", help="compile weights as constants")
    parser.add_argument("--device", default="auto", help="cpu, cuda ... (cuda where there is one)")
    parser.add_argument("--pairs", type=int, default=30, help="rounds (30)")
    parser.add_argument("--time", type=float, default=150, metavar="SECONDS", help="no round begins after (150)")
    parser.add_argument("--allocator", choices=ALLOCATORS, default="tuned", help="glibc's settings (tuned)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="append the rows to this file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    own = vars(parser.parse_args(words))
    file, as_json, seconds, allocator = (own.pop(name) for name in ("csv", "json", "time", "allocator"))
    attention = None if own["attention"] is None else tuple(filter(None, own["attention"].split(",")))
    settings = BenchSettings(**own | {"attention": attention, "seconds": seconds})
    if file is not None:
        check_file(file, COLUMNS)
    prepare(words, tuned=allocator == "tuned")
    from sgenet.bench.measuring import bench
    from sgenet.bench.table import print_bench, shown_progress

    with shown_progress() as show:
        result = bench(settings, show)
    if as_json:
        print(json.dumps(result.to_rows(), indent=2))
    else:
        print_bench(result)
    if file is not None:
        add_rows(file, result.to_rows())
    return 0


def doctor_command(words: list[str]) -> int:
    """Run `sgenet doctor` with the words behind it; returns the exit status."""
    parser = parser_of("doctor", description="What this machine has for sgenet: devices, backends, compiler, extras.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    own = parser.parse_args(words)
    from sgenet.doctor import diagnose

    found = diagnose()
    if own.json:
        print(json.dumps(dict(found), indent=2))
        return 0
    width = max(len(name) for name, _ in found)
    print("\n".join(f"{name:<{width}}  {text}" for name, text in found))
    return 0


def models_command(words: list[str]) -> int:
    """Run `sgenet models` with the words behind it; returns the exit status."""
    parser = parser_of("models", description="Names of networks.")
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="e.g. 'sge_*' or 'timm:*resnet50*'")
    own = parser.parse_args(words)
    from sgenet.models import list_models

    names = list_models(own.pattern)
    if not names:
        raise UnknownNameError(
            f"no network matches '{own.pattern}'; `sgenet models` lists ours, 'timm:*' those of timm"
        )
    print("\n".join(names))
    return 0


def recipes_command(words: list[str]) -> int:
    """Run `sgenet recipes` with the words behind it; returns the exit status."""
    parser = parser_of("recipes", description="Names of recipes, or the file of one.")
    parser.add_argument("recipe", metavar="NAME", nargs="?", help="show this one")
    own = parser.parse_args(words)
    if own.recipe is not None:
        file = RECIPES.find(own.recipe)
        read_yaml(file)  # what is no recipe is not shown
        print(file.read_text(encoding="utf-8"), end="")
        return 0
    for name in list_recipes():
        print(f"{name:<25}{recipe_summary(name)}")
    return 0
