import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image

from sgenet.data import (
    DetectionAugmentation,
    Target,
    UnreadableImage,
    detection_eval_loader,
    detection_train_loader,
    open_detection_data,
)
from sgenet.data.shapes_detection import ShapesDetectionSource
from sgenet.errors import ConfigError, DataError

AUGMENTATION = DetectionAugmentation(short_sides=(5, 8), long_side=20)


class Drawn:
    """Small images of random pixels, wide and tall ones, some of which pretend to be damaged."""

    def __init__(self, count, unreadable=(), has_masks=True):
        generator = torch.Generator().manual_seed(count)
        self.sizes = torch.randint(4, 12, (count, 2), generator=generator)
        self.has_masks = has_masks
        self.unreadable = frozenset(unreadable)

    def __len__(self):
        return len(self.sizes)

    def load(self, index):
        if index in self.unreadable:
            raise UnreadableImage(f"drawn/{index}", "damaged")
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, *self.sizes[index]), dtype=torch.uint8, generator=generator)

    def target(self, index, *, masks=False):
        height, width = self.sizes[index].tolist()
        count = index % 3  # every third image has no object
        boxes = torch.tensor([[1.0, 1.0, width - 0.5, height]]).repeat(count, 1)
        labels = torch.arange(count) + index
        mask = torch.ones(count, height, width, dtype=torch.bool) if masks else None
        return Target(boxes, labels, labels % 2 == 0, boxes.sum(1), mask)


def contents(loader):
    """Every batch as plain values."""
    return [
        (
            batch.indices.tolist(),
            [image.tolist() for image in batch.images],
            [
                [None if value is None else value.tolist() for value in (t.boxes, t.labels, t.crowd, t.areas, t.masks)]
                for t in batch.targets
            ],
            batch.skipped,
        )
        for batch in loader
    ]


def train(source, **more):
    return detection_train_loader(
        source, AUGMENTATION, **{"batch_size": 4, "seed": 5, "epoch": 2, "masks": True, **more}
    )


@pytest.mark.parametrize("group", [True, False])
def test_workers_change_nothing(group):
    source = Drawn(21, unreadable={4})
    alone, helped = (contents(train(source, workers=workers, group=group)) for workers in (0, 2))
    assert len(alone) == 5
    assert helped == alone


def test_ranks_change_nothing():
    source = Drawn(21, unreadable={4})
    whole = contents(train(source))
    halves = [contents(train(source, rank=rank, world=2)) for rank in range(2)]
    assert [tuple(a + b for a, b in zip(*pair, strict=True)) for pair in zip(*halves, strict=True)] == whole


def test_starting_in_the_middle_changes_nothing():
    source = Drawn(21)
    whole, late = train(source), train(source, first_batch=3)
    assert (len(whole), len(late)) == (5, 2)
    assert contents(late) == contents(whole)[3:]
    assert contents(train(source, first_batch=5)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_one_loader_serves_every_epoch(workers):
    source = Drawn(12)
    loader = train(source, workers=workers)
    for epoch, first in ((0, 0), (1, 2), (2, 0)):
        loader.set_epoch(epoch, first)
        assert contents(loader) == contents(train(source, epoch=epoch, first_batch=first))


def test_epochs_and_seeds_differ():
    source = Drawn(12)
    seen = [contents(train(source, **place)) for place in ({}, {"epoch": 3}, {"seed": 6})]
    assert seen[0] != seen[1]
    assert seen[0] != seen[2]
    assert seen[0] == contents(train(source))


def test_objects_follow_their_image():
    source = Drawn(30)
    for batch in train(source, batch_size=5):
        assert len(batch.images) == len(batch.targets) == len(batch.indices)
        for image, target, index in zip(batch.images, batch.targets, batch.indices.tolist(), strict=True):
            assert image.dtype == torch.uint8
            assert min(image.shape[1:]) in (5, 8) or max(image.shape[1:]) == 20
            assert target.labels.tolist() == source.target(index).labels.tolist()
            assert target.masks.shape == (len(target), *image.shape[1:])


def test_training_takes_each_image_once_in_batches_of_one_shape():
    source = Drawn(40)
    batches = [batch.indices for batch in train(source)]
    assert sorted(torch.cat(batches).tolist()) == list(range(40))
    wide = source.sizes[:, 1] > source.sizes[:, 0]
    mixed = [number for number, batch in enumerate(batches) if wide[batch].unique().numel() > 1]
    assert mixed in ([], [len(batches) - 1])
    ungrouped = [wide[batch.indices].unique().numel() for batch in train(source, group=False)]
    assert max(ungrouped[:-1]) == 2


@pytest.mark.parametrize(("count", "drop_last", "sizes"), [(10, True, [4, 4]), (10, False, [4, 4, 2]), (3, True, [3])])
def test_incomplete_batches(count, drop_last, sizes):
    loader = train(Drawn(count), drop_last=drop_last)
    assert [len(batch.images) for batch in loader] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (3, 0)])
def test_evaluation_shows_each_image_once_as_it_is(world, workers):
    source = Drawn(11)
    loaders = [detection_eval_loader(source, batch_size=4, rank=r, world=world, workers=workers) for r in range(world)]
    batches = list(itertools.chain.from_iterable(zip(*loaders, strict=True)))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(11))
    images = [image for batch in batches for image in batch.images]
    targets = [target for batch in batches for target in batch.targets]
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        assert torch.equal(image, source.load(index))
        assert torch.equal(target.boxes, source.target(index).boxes)
        assert target.masks is None


def test_a_rank_without_a_share_gets_an_empty_batch():
    first, last = (list(detection_eval_loader(Drawn(5), batch_size=4, rank=rank, world=2))[-1] for rank in range(2))
    assert (first.images, first.targets, first.indices.tolist()) == ([], [], [])
    assert last.indices.tolist() == [4]


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_left_out_and_named(workers):
    batches = list(detection_eval_loader(Drawn(8, unreadable={1, 6, 7}), batch_size=2, workers=workers))
    assert [batch.indices.tolist() for batch in batches] == [[0], [2, 3], [4, 5], []]
    assert [batch.skipped for batch in batches] == [
        ["drawn/1: damaged"],
        [],
        [],
        ["drawn/6: damaged", "drawn/7: damaged"],
    ]
    with pytest.raises(DataError, match=r"^none of 3 images can be read.*drawn/0: damaged$"):
        list(detection_eval_loader(Drawn(3, unreadable=range(3)), batch_size=2, workers=workers))


def test_damaged_files_are_named(make_coco):
    root = make_coco()
    (root / "train/1.png").write_bytes((root / "train/1.png").read_bytes()[:60])
    Image.new("RGB", (3, 3)).save(root / "val/2.png")
    data = open_detection_data(root)
    (train_batch,) = detection_train_loader(data.train, DetectionAugmentation(), batch_size=2, seed=0)
    (val_batch,) = detection_eval_loader(data.val, batch_size=2)
    assert train_batch.skipped[0].startswith(f"{root}/train/1.png: ")
    assert val_batch.skipped == [f"{root}/val/2.png: it is 3 x 3 pixels, but its annotations say 40 x 30"]


def test_global_generator_is_neither_used_nor_changed():
    source = ShapesDetectionSource("train", 8, image_size=64)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    seen = contents(train(source))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert contents(train(source)) == seen


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_workers_send_few_open_files():
    def open_files():
        return len(list(Path("/proc/self/fd").iterdir()))

    batches = iter(detection_eval_loader(Drawn(32), batch_size=16, workers=1))
    before = open_files()
    batch = next(batches)
    assert len(batch.targets) == 16
    # One for each image and a few between the processes, but not four more for each target.
    assert open_files() - before < 2 * 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"workers": -1}, "workers=-1"),
        ({"epoch": -1}, "epoch=-1"),
        ({"first_batch": 4}, "first_batch=4"),
        ({"batch_size": 3, "world": 2}, "batch_size=3"),
    ],
)
def test_impossible_loaders_are_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        train(Drawn(12), **arguments)


def test_masks_that_are_not_there_are_refused_at_once():
    with pytest.raises(ConfigError, match="masks are asked for, but the annotations hold none"):
        train(Drawn(8, has_masks=False))
    with pytest.raises(ConfigError, match="masks are asked for"):
        detection_eval_loader(Drawn(8, has_masks=False), batch_size=2, masks=True)
