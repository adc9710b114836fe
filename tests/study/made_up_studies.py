"""Studies that were never trained, with any top-1 one likes."""

import dataclasses
import math

from sgenet.classification.history import EpochRow
from sgenet.study.analysis import analyse
from sgenet.study.definition import Definition, Factor, Level
from sgenet.study.sections import Times
from sgenet.study.storage import Result, State
from sgenet.timing import Ratio

TOP1 = {"none": [87.9, 89.0, 87.6], "se": [88.8, 89.4, 87.1], "sge": [89.1, 88.7, 88.4]}
WIN = {"none": [80.0, 81.0, 79.5, 80.5], "se": [80.3, 80.9, 79.4, 80.9], "sge": [90.0, 91.2, 89.4, 90.3]}
LOSS = {"none": [90.0, 91.2, 89.4, 90.3], "se": [90.3, 90.9, 89.4, 90.9], "sge": [80.0, 81.0, 79.5, 80.5]}
TIE = {"none": [88.0, 89.0, 87.0], "se": [87.5, 89.4, 87.1], "sge": [88.9, 88.1, 87.0]}
ALIKE = {"none": [88.0, 89.0], "se": [88.5, 89.5], "sge": [88.0, 89.0]}
ONE = {"none": [88.0], "se": [89.0], "sge": [99.0]}
NONE = {"none": [], "se": [], "sge": []}

# Over noise 0, 1 and 2: the differences of se stay, those of sge grow by about one point for each unit.
NOISES = ("0", "1", "2")
ALONG_NOISE = {
    "none / 0": [90.0, 91.0, 89.0, 90.5], "none / 1": [84.0, 85.5, 83.5, 84.2], "none / 2": [75.0, 76.1, 74.2, 75.9],
    "se / 0": [90.4, 91.1, 89.8, 90.2], "se / 1": [84.1, 85.9, 83.2, 84.9], "se / 2": [75.3, 76.2, 74.6, 76.0],
    "sge / 0": [90.2, 91.1, 89.3, 90.4], "sge / 1": [85.0, 86.6, 84.6, 85.3], "sge / 2": [77.1, 78.0, 76.3, 77.9],
}  # fmt: skip

ENVIRONMENT = {
    "machine": {"platform": "Linux", "processor": "a processor", "cores": 2, "threads": 2, "gpus": ["a <GPU>"]},
    "versions": {"python": "3.11", "torch": "2.8", "timm": None},
}


def study(levels=("none", "se", "sge"), noise=(), **changes):
    """A definition whose compared factor has the given levels; the first is the baseline."""
    known = {name: {"attention": name} for name in ("none", "se", "sge")}
    compared = Factor("attention", tuple(Level(n, known.get(n, {"lr": 0.01 * i})) for i, n in enumerate(levels, 1)))
    circumstances = Factor("noise", tuple(Level(n, {"data_options": {"noise": float(n)}}) for n in noise))
    usual = {
        "name": "made-up",
        "title": "Does attention help?",
        "question": "Which of the two helps?",
        "factors": (compared, *((circumstances,) if noise else ())),
        "compare": "attention",
        "baseline": levels[0],
        "seeds": 3,
        "recipe": "shapes",
        "settings": {"data": "shapes", "model": "resnet8_cifar", "epochs": 4},
    }
    return Definition(**{**usual, **changes})


def history(top1, seed=0, epochs=4):
    """Rises to `top1`, by a way that differs from seed to seed and from network to network."""
    rows = []
    for epoch in range(1, epochs + 1):
        share = 1 - math.exp(-epoch)
        now = top1 if epoch == epochs else top1 * share * (1 - 0.01 * (1 + math.sin(7 * seed + epoch + top1)))
        rows.append(
            EpochRow(
                epoch, 62 * epoch, 0.1 / epoch, 2 / epoch + 0.01 * seed, 0.9 * now, 1.9 / epoch, now,
                min(now + 9, 100.0), 1500.0, 2.5,
            )
        )  # fmt: skip
    return tuple(dataclasses.asdict(row) for row in rows)


def result(key, top1, seed, epochs=4):
    """What a training came to."""
    command = f"sgenet train --recipe shapes --seed {seed} --output 'runs/{key}'"
    return Result(history(top1, seed, epochs), command, f"runs/{key}", ENVIRONMENT)


def state(definition, top1, failed=None):
    """Results with the given last top-1: by the name of a combination, a value for each seed, None where none is."""
    results = {}
    for cell in definition.cells:
        values = top1.get(cell.combination.name, [])
        if cell.seed < len(values) and values[cell.seed] is not None:
            results[cell.key] = result(cell.key, values[cell.seed], cell.seed)
    failed = failed or {}
    waiting = tuple(cell.key for cell in definition.cells if cell.key not in {*results, *failed})
    return State(results, {}, waiting, failed)


def analysed(top1, failed=None, **changes):
    """The analysis of a study with these figures; by default it has as many seeds as they have."""
    seeds = max(1, *(len(values) for values in top1.values()))
    definition = study(**{"seeds": seeds, **changes})
    return analyse(definition, state(definition, top1, failed))


def of_two_lengths():
    """The analysis of a study whose last level is trained twice as long as the others."""
    whole = state(study(), WIN)
    longer = {key: result(key, 88.0, 0, 8) for key in whole.results if "attention=sge" in key}
    return analyse(study(), dataclasses.replace(whole, results={**whole.results, **longer}))


def along_noise(top1=None, **changes):
    """The analysis of a study of a trend."""
    return analysed(top1 or ALONG_NOISE, noise=NOISES, trend="noise", **changes)


def costs(definition):
    """Each level costs a little more than the one before it, and circumstances cost nothing."""
    found, position = {}, {level.name: i for i, level in enumerate(definition.factor.levels)}
    for combination in definition.combinations:
        i = position[combination.levels[definition.compare]]
        found[combination.name] = {
            "input_shape": [1, 3, 64, 64],
            "parameters": 75_160 + 56 * i,
            "macs": 12_240_000 + 1_000 * i,
            "elementwise": 250_000 * (i + 1),
            "bytes_moved": 2_540_000 * (i + 1),
        }
    return found


def times(definition):
    """Each level takes a little longer than the one before it."""
    names = [level.name for level in definition.factor.levels]
    ratios = {name: Ratio(1 + 0.25 * i, 0.9 + 0.25 * i, 1.1 + 0.25 * i, 30, 0.02) for i, name in enumerate(names)}
    return Times(ratios, ratios, "Batches of 64 images.")
