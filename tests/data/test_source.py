import pickle

import pytest
import torch

from sgenet.data import ArraySource, UnreadableImage
from sgenet.errors import DataError


def test_unreadable_image_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(UnreadableImage("a/b.jpg", "the file is empty")))
    assert (error.path, error.reason, str(error)) == ("a/b.jpg", "the file is empty", "a/b.jpg: the file is empty")


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"\(N, 3, H, W\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "one for each image"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 2]), "use 0 to 1"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([-1, 0]), "use 0 to 1"),
    ],
)
def test_array_source_refuses_what_is_not_labelled_images(images, labels, said):
    with pytest.raises(DataError, match=said):
        ArraySource(images, labels, ["a", "b"])
