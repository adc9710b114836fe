from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sgenet.classification.scores import Score


def test_sums_do_not_depend_on_how_images_are_split():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 7, generator=generator)
    labels = torch.randint(0, 7, (50,), generator=generator)
    score = Score()
    for part in torch.arange(50).split(8):
        score.add(logits[part], labels[part])
    score.add(logits[:0], labels[:0])
    ranked = logits.argsort(dim=1, descending=True)
    assert score.images == 50
    assert score.top1 == 100 * sum(ranked[i, 0] == labels[i] for i in range(50)).item() / 50
    assert score.top5 == 100 * sum(labels[i] in ranked[i, :5] for i in range(50)) / 50
    assert score.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)


def test_with_fewer_than_five_classes_top5_is_whole():
    score = Score()
    score.add(torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16), torch.tensor([0]))
    assert (score.top1, score.top5) == (0.0, 100.0)


def test_a_given_loss_is_the_one_that_counts():
    score = Score()
    score.add(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), torch.tensor(2.5))
    assert score.loss == 2.5


def test_nothing_counted_is_nan():
    score = Score()
    assert math.isnan(score.top1)
    assert math.isnan(score.loss)
    assert score.images == 0
