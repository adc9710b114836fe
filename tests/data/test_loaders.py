import itertools

import pytest
import torch

from sgenet.data import Augmentation, Preprocessing, eval_loader, normalise, train_loader
from sgenet.errors import ConfigError, DataError

SIZE = Preprocessing(image_size=8, resize=None)
AUGMENTATION = Augmentation(jitter=3)


def contents(loader):
    """Every batch as plain values: (index, label, pixels) of each image, and what was skipped."""
    return [
        (
            [
                (index, label, image.numpy().tobytes())
                for index, label, image in zip(b.indices.tolist(), b.labels.tolist(), b.images, strict=True)
            ],
            b.skipped,
        )
        for b in loader
    ]


@pytest.mark.parametrize("augmentation", [AUGMENTATION, Augmentation(crop="pad")])
def test_workers_change_nothing(make_source, augmentation):
    source = make_source(21, unreadable={4})
    alone, helped = (
        contents(train_loader(source, SIZE, augmentation, batch_size=4, seed=5, epoch=2, workers=workers))
        for workers in (0, 2)
    )
    assert len(alone) == 5
    assert helped == alone


def test_ranks_change_nothing(make_source):
    source = make_source(21, unreadable={4})

    def of_rank(rank, world):
        loader = train_loader(source, SIZE, AUGMENTATION, batch_size=4, seed=5, epoch=2, rank=rank, world=world)
        return contents(loader)

    whole = of_rank(0, 1)
    halves = [of_rank(rank, 2) for rank in range(2)]
    assert [(a + b, s + t) for (a, s), (b, t) in zip(*halves, strict=True)] == whole


def test_starting_in_the_middle_changes_nothing(make_source):
    source = make_source(21)
    loader = train_loader(source, SIZE, AUGMENTATION, batch_size=4, seed=5, epoch=1)
    whole = contents(loader)
    late = train_loader(source, SIZE, AUGMENTATION, batch_size=4, seed=5, epoch=1, first_batch=3)
    assert len(loader) == 5
    assert len(late) == 2
    assert contents(late) == whole[3:]
    assert contents(train_loader(source, SIZE, AUGMENTATION, batch_size=4, seed=5, epoch=1, first_batch=5)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_one_loader_serves_every_epoch(make_source, workers):
    source = make_source(12)
    loader = train_loader(source, SIZE, AUGMENTATION, batch_size=4, seed=5, workers=workers)
    for epoch, first in ((0, 0), (1, 2), (2, 0)):
        loader.set_epoch(epoch, first)
        fresh = train_loader(source, SIZE, AUGMENTATION, batch_size=4, seed=5, epoch=epoch, first_batch=first)
        assert len(loader) == len(fresh)
        assert contents(loader) == contents(fresh)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_may_be_left_early(make_source, workers):
    loader = train_loader(make_source(24), SIZE, AUGMENTATION, batch_size=4, seed=5, workers=workers)
    whole = contents(loader)
    for batch in loader:
        assert len(batch.labels) == 4
        break
    assert contents(loader) == whole


def test_global_generator_is_neither_used_nor_changed(make_source):
    source = make_source(12)
    loaders = [
        train_loader(source, SIZE, AUGMENTATION, batch_size=4, seed=0),
        eval_loader(source, SIZE, batch_size=4),
    ]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    seen = [contents(loader) for loader in loaders]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert [contents(loader) for loader in loaders] == seen


def test_training_takes_each_image_once_and_shuffled(make_source):
    batches = list(train_loader(make_source(40), SIZE, AUGMENTATION, batch_size=8, seed=0))
    indices = torch.cat([b.indices for b in batches])
    assert sorted(indices.tolist()) == list(range(40))
    assert indices.tolist() != list(range(40))
    assert torch.equal(torch.cat([b.labels for b in batches]), indices % 2)
    assert all(b.images.dtype == torch.uint8 and b.images.shape == (8, 3, 8, 8) for b in batches)


@pytest.mark.parametrize(("count", "drop_last", "sizes"), [(10, True, [4, 4]), (10, False, [4, 4, 2]), (3, True, [3])])
def test_incomplete_batches(make_source, count, drop_last, sizes):
    loader = train_loader(make_source(count), SIZE, AUGMENTATION, batch_size=4, seed=0, drop_last=drop_last)
    assert [len(b.labels) for b in loader] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0), (3, 0)])
def test_evaluation_shows_each_image_once_over_all_ranks(make_source, world, workers):
    source = make_source(11, size=(8, 8))
    loaders = [
        eval_loader(source, SIZE, batch_size=4, rank=rank, world=world, workers=workers) for rank in range(world)
    ]
    batches = list(itertools.chain.from_iterable(zip(*loaders, strict=True)))
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(11))
    assert torch.equal(torch.cat([b.images for b in batches]), torch.stack([source.load(i) for i in range(11)]))


def test_a_rank_without_a_share_gets_an_empty_batch(make_source):
    first, last = (list(eval_loader(make_source(5), SIZE, batch_size=4, rank=rank, world=2))[-1] for rank in range(2))
    assert first.images.shape == (0, 3, 8, 8)
    assert last.indices.tolist() == [4]


def test_ten_crops_and_scale(make_source):
    source = make_source(3, size=(20, 20), unreadable={0})
    batches = list(eval_loader(source, Preprocessing(image_size=8, resize=10), batch_size=1, crops=10, scale=12))
    assert [b.images.shape for b in batches] == [(0, 10, 3, 8, 8), (1, 10, 3, 8, 8), (1, 10, 3, 8, 8)]


def test_unreadable_images_are_left_out_and_named(make_source):
    source = make_source(10, unreadable={1, 6, 7})
    batches = list(eval_loader(source, SIZE, batch_size=2))
    assert [b.indices.tolist() for b in batches] == [[0], [2, 3], [4, 5], [], [8, 9]]
    assert [b.skipped for b in batches] == [["drawn/1: damaged"], [], [], ["drawn/6: damaged", "drawn/7: damaged"], []]
    assert batches[3].images.shape == (0, 3, 8, 8)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_of_unreadable_images_only_is_an_error(make_source, workers):
    source = make_source(6, unreadable=range(6))
    with pytest.raises(DataError, match=r"^none of 6 images can be read.*drawn/0: damaged$"):
        list(eval_loader(source, SIZE, batch_size=4, workers=workers))


def test_sources_of_different_image_sizes(make_folder):
    from PIL import Image

    from sgenet.data import FileSource

    root = make_folder("a.png")
    Image.new("RGB", (1, 1)).save(root / "dot.png")
    Image.new("L", (30, 9)).save(root / "wide.png")
    source = FileSource(["a.png", "dot.png", "wide.png"], [0, 1, 0], ["x", "y"], root)
    (batch,) = eval_loader(source, SIZE, batch_size=3)
    assert batch.images.shape == (3, 3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 4, "workers": -1}, "workers=-1"),
        ({"batch_size": 4, "epoch": -1}, "epoch=-1"),
        ({"batch_size": 4, "first_batch": 4}, "first_batch=4"),
        ({"batch_size": 3, "world": 2}, "batch_size=3"),
    ],
)
def test_impossible_loaders_are_refused(make_source, arguments, said):
    with pytest.raises(ConfigError, match=said):
        train_loader(make_source(12), SIZE, AUGMENTATION, seed=0, **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalise(dtype, memory_format):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8).to(memory_format=memory_format)
    before = images.clone()
    done = normalise(images, mean, std, dtype)
    wide = images.double() / 255
    expected = torch.stack([(wide[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    assert done.dtype == dtype
    assert done.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(done.double(), expected, rtol=2**-7 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    assert torch.equal(images, before)


def test_normalise_takes_crops_and_can_be_learnt_through():
    with torch.inference_mode():
        normalise(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), (0.1, 0.1, 0.1), (0.9, 0.9, 0.9))
    images = torch.randint(0, 256, (2, 10, 3, 4, 4), dtype=torch.uint8)
    done = normalise(images, (0.1, 0.1, 0.1), (0.9, 0.9, 0.9))
    torch.testing.assert_close(done, (images / 255 - 0.1) / 0.9)
    weight = torch.ones(3, requires_grad=True)
    (done.mean((0, 1, 3, 4)) * weight).sum().backward()
    torch.testing.assert_close(weight.grad, done.mean((0, 1, 3, 4)))
