import pytest
import torch

from sgenet.data import Augmentation, Preprocessing, ResidentImages, eval_loader, fits, train_loader
from sgenet.errors import ConfigError, DataError

SIZE = Preprocessing(image_size=8, resize=None)
LARGER = Preprocessing(image_size=8, resize=10)
PADDED = Augmentation(crop="pad", pad=2)


def same(held, loaded):
    pairs = list(zip(held, loaded, strict=True))
    for ours, theirs in pairs:
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.indices, theirs.indices)
        assert ours.skipped == theirs.skipped
    return len(pairs)


@pytest.mark.parametrize("preprocessing", [SIZE, LARGER])
@pytest.mark.parametrize("augmentation", [PADDED, Augmentation(crop="none", flip=0.3)])
@pytest.mark.parametrize("unreadable", [(), (0, 7, 8)])
def test_training_batches_are_those_of_the_loader(make_source, preprocessing, augmentation, unreadable):
    source = make_source(22, size=(12, 9), unreadable=unreadable)
    held = ResidentImages(source, preprocessing)
    for place in (
        {"epoch": 0},
        {"epoch": 3, "first_batch": 2},
        {"epoch": 1, "rank": 1, "world": 2},
        {"epoch": 1, "drop_last": False},
        {"epoch": 0, "first_batch": 5},
    ):
        settings = {"batch_size": 4, "seed": 9, **place}
        ours = held.train_loader(augmentation, **settings)
        theirs = train_loader(source, preprocessing, augmentation, **settings)
        assert len(ours) == len(theirs)
        assert same(ours, theirs) == len(theirs)


@pytest.mark.parametrize("unreadable", [(), (0, 7, 8, 9)])
@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_batches_are_those_of_the_loader(make_source, unreadable, world):
    source = make_source(11, size=(12, 9), unreadable=unreadable)
    held = ResidentImages(source, LARGER)
    for rank in range(world):
        ours = held.eval_loader(batch_size=4, rank=rank, world=world)
        assert same(ours, eval_loader(source, LARGER, batch_size=4, rank=rank, world=world)) == 3


def test_one_loader_serves_every_epoch(make_source):
    held = ResidentImages(make_source(12), SIZE)
    loader = held.train_loader(PADDED, batch_size=4, seed=5)
    loader.set_epoch(2, 1)
    assert len(loader) == 2
    assert same(loader, held.train_loader(PADDED, batch_size=4, seed=5, epoch=2, first_batch=1)) == 2
    with pytest.raises(ConfigError, match="first_batch=4"):
        loader.set_epoch(0, 4)


def test_batches_may_be_changed_without_harm(make_source):
    held = ResidentImages(make_source(4), SIZE)
    before = held.images.clone()
    for loader in (
        held.eval_loader(batch_size=4),
        held.train_loader(Augmentation(crop="none", flip=0), batch_size=4, seed=0),
    ):
        for batch in loader:
            batch.images.zero_()
            batch.labels.zero_()
    assert torch.equal(held.images, before)
    assert held.labels.tolist() == [0, 1, 0, 1]


def test_workers_decode_the_same(make_source):
    source = make_source(300, unreadable={3, 290})
    alone, helped = (ResidentImages(source, SIZE, workers=workers) for workers in (0, 2))
    assert torch.equal(alone.images, helped.images)
    assert alone.skipped == helped.skipped == {3: "drawn/3: damaged", 290: "drawn/290: damaged"}


def test_progress_is_told(make_source):
    told = []
    ResidentImages(make_source(300), SIZE, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (300, 300)
    assert told == sorted(set(told))


def test_nothing_readable_is_an_error(make_source):
    with pytest.raises(DataError, match="none of 3 images"):
        ResidentImages(make_source(3, unreadable=range(3)), SIZE)


@pytest.mark.parametrize(
    ("augmentation", "limit", "expected"),
    [
        (PADDED, 10 * 192, True),
        (PADDED, 10 * 192 - 1, False),
        (None, 10 * 192, True),
        (Augmentation(crop="none"), 10**9, True),
        (Augmentation(crop="random-resized"), 10**9, False),
        (Augmentation(crop="pad", rotation=5), 10**9, False),
        (Augmentation(crop="pad", jitter=5), 10**9, False),
        (Augmentation(crop="pad", color_jitter=0.1), 10**9, False),
        (Augmentation(crop="pad", random_erasing=0.1), 10**9, False),
    ],
)
def test_fits(make_source, augmentation, limit, expected):
    assert fits(make_source(10), SIZE, augmentation, limit_bytes=limit) is expected


def test_augmentation_that_needs_single_images_is_refused(make_source):
    held = ResidentImages(make_source(4), SIZE)
    with pytest.raises(ConfigError, match="use train_loader"):
        held.train_loader(Augmentation(crop="random-resized"), batch_size=2, seed=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_never_waits_and_gets_the_same_pixels(make_source):
    source = make_source(22)
    held, reference = ResidentImages(source, SIZE, device="cuda"), ResidentImages(source, SIZE)
    loader = held.train_loader(PADDED, batch_size=4, seed=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(loader)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = [
        batch._replace(images=batch.images.cpu(), labels=batch.labels.cpu(), indices=batch.indices.cpu())
        for batch in batches
    ]
    assert same(on_cpu, reference.train_loader(PADDED, batch_size=4, seed=0)) == 5
