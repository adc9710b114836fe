"""Results of networks that were never trained, with any top-1 one likes."""

import math
from pathlib import Path

from sgenet.classification.run_folder import EpochRow
from sgenet.cost import Cost
from sgenet.demo.result import NetworkResult, SeedRun
from sgenet.timing import Ratio

TITLES = {"resnet8_cifar": "plain", "se_resnet8_cifar": "SE", "sge_resnet8_cifar": "SGE"}
RATIOS = (Ratio(1.003, 0.987, 1.021, 30, 0.02), Ratio(1.123, 1.09, 1.16, 30, 0.02), Ratio(1.61, 1.55, 1.69, 30, 0.03))


def make_history(top1, epochs=4):
    rows = []
    for epoch in range(1, epochs + 1):
        share = 1 if epoch == epochs else 1 - math.exp(-epoch / 2)
        rows.append(EpochRow(epoch, 62 * epoch, 0.1, 2 / epoch, 50.0, 1.0, top1 * share, 99.0, 1500.0, 2.5))
    return tuple(rows)


def make_networks(*top1):
    """Networks of the demonstration with the given top-1 of each seed, in the order of TITLES."""
    networks = []
    for i, ((model, title), values) in enumerate(zip(TITLES.items(), top1, strict=False)):
        runs = tuple(
            SeedRun(
                seed, Path(f"runs/{model}-seed{seed}"), f"sgenet train --model {model} --seed {seed}", make_history(v)
            )
            for seed, v in enumerate(values)
        )
        cost = Cost((1, 3, 64, 64), 75_160 + 56 * i, 12_240_000 + i, 250_001 * (i + 1), 2_540_000 * (i + 1), 12_600_000)
        networks.append(NetworkResult(model, title, cost, RATIOS[i], RATIOS[i], runs))
    return tuple(networks)
