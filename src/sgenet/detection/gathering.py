"""Results that several processes found, brought together so that each image counts once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from torch import distributed

from sgenet.detection.results import Result

__all__ = ["gather_results"]


def gather_results(results: Iterable[Result], image_ids: Iterable[int]) -> tuple[list[Result], list[int]]:
    """Results of all processes, each image once, in the order of the image ids.

    A sampler for several processes gives some images twice, so that all processes get equally many. Of an image that
    several processes saw, the results of the first of them count. Every process must call this, and gets the same.

    Args:
        results: What this process found, in COCO's results form.
        image_ids: The images that it looked at, those without results too.

    Returns:
        Results of all images, and the ids of these images in rising order. Without a process group, those given.

    Raises:
        ValueError: If an image has results and is not in `image_ids`.

    Examples:
        >>> found = [{"image_id": i, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5} for i in (7, 3)]
        >>> results, image_ids = gather_results(found, [7, 5, 3])
        >>> [result["image_id"] for result in results], image_ids
        ([3, 7], [3, 5, 7])
    """
    own = _by_image(results, image_ids)
    gathered: list[dict[int, list[Result]] | None] = [own]
    if distributed.is_available() and distributed.is_initialized():
        gathered = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, own)
    merged: dict[int, list[Result]] = {}
    for found in reversed(gathered):
        merged.update(found or {})
    ordered = sorted(merged)
    return [result for image_id in ordered for result in merged[image_id]], ordered


def _by_image(results: Iterable[Result], image_ids: Iterable[int]) -> dict[int, list[Result]]:
    """The results of each image; of one that was seen several times, those of the first time."""
    found: dict[int, list[Result]] = defaultdict(list)
    for result in results:
        found[result["image_id"]].append(result)
    seen = Counter(image_ids)
    unseen = next((image_id for image_id in found if image_id not in seen), None)
    if unseen is not None:
        raise ValueError(f"image {unseen} has results, but image_ids lacks it; name every image that was looked at")
    return {image_id: found[image_id][: _share(found[image_id], times)] for image_id, times in seen.items()}


def _share(results: Sequence[Result], times: int) -> int:
    # The same network finds the same each time.
    return len(results) // times
