"""The annotations that results are judged by, checked and ready for it, without a change to what was given."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sgenet.detection.coco_form import RunLengths, box_problem, is_number, is_whole, kind_of, run_lengths, shown
from sgenet.detection.results import Result, check_results
from sgenet.errors import ConfigError, DataError

__all__ = ["Annotation", "GroundTruth", "Kind", "read_ground_truth"]

Kind: TypeAlias = Literal["bbox", "segm"]
"""What is compared with what: boxes, or masks."""

Annotation: TypeAlias = dict[str, Any]
"""An object, or a detection: id, image_id, category_id, bbox, area, iscrowd; segmentation in compressed run lengths
where masks are judged; a detection has a score."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Annotated objects of some images.

    Attributes:
        images: Id of each image: height and width in pixels (0 where they are not stated).
        categories: Id of each category: its name; in the order of the ids.
        annotations: As they were given.
    """

    images: Mapping[int, tuple[int, int]]
    categories: Mapping[int, str]
    annotations: Sequence[Mapping[str, Any]]

    @property
    def has_masks(self) -> bool:
        """Whether every object has a mask."""
        return all(annotation.get("segmentation") for annotation in self.annotations)

    def chosen(self, image_ids: Collection[int] | None) -> list[int]:
        """The ids of the images to judge, in rising order, each once.

        Args:
            image_ids: Some of them; None for all.

        Raises:
            ConfigError: If one of them is unknown.
        """
        if image_ids is None:
            return sorted(self.images)
        unknown = [image_id for image_id in image_ids if image_id not in self.images]
        if unknown:
            raise ConfigError(
                f"image_ids has {unknown[0]}, which is none of the {len(self.images)} images of the annotations "
                f"({len(unknown)} of {len(image_ids)} are unknown); give ids of theirs"
            )
        return sorted(set(image_ids))

    def objects(self, kind: Kind, image_ids: Iterable[int]) -> list[Annotation]:
        """The objects of some images as COCO's evaluation takes them, numbered from 1.

        Args:
            kind: "segm" brings masks.
            image_ids: Of the images.

        Returns:
            New mappings. As in COCO's own evaluation, annotations of unknown categories are left out.

        Raises:
            DataError: If a mask is needed and missing or damaged.
        """
        images = set(image_ids)
        chosen = [a for a in self.annotations if a["image_id"] in images and a["category_id"] in self.categories]
        # Numbers of our own, because COCO's evaluation takes the id 0 for none, and an id that comes twice for one.
        return [self._object(number, annotation, kind) for number, annotation in enumerate(chosen, start=1)]

    def detections(
        self, results: Sequence[Result], kind: Kind, image_ids: Iterable[int], *, mask_areas: bool = False
    ) -> list[Annotation]:
        """Results as COCO's evaluation takes them, numbered from 1.

        Args:
            results: In COCO's results form.
            kind: "segm" brings masks.
            image_ids: Results of other images are left out.
            mask_areas: Where masks are judged, the size of a detection is that of its mask even if it has a box.

        Returns:
            New mappings.

        Raises:
            DataError: If the results are in another form, name unknown images or categories, or lack what is judged.
        """
        check_results(results, image_ids=self.images.keys(), category_ids=self.categories.keys())
        images = set(image_ids)
        found: list[Annotation] = []
        for number, result in enumerate(results):
            if result["image_id"] in images:
                try:
                    found.append(self._detection(len(found) + 1, result, kind, mask_areas))
                except ValueError as error:
                    raise DataError(f"the results: entry {number} {error}; mend the results") from error
        return found

    def _object(self, number: int, annotation: Mapping[str, Any], kind: Kind) -> Annotation:
        own: Annotation = {name: annotation[name] for name in ("image_id", "category_id")}
        own.update(id=number, iscrowd=int(annotation.get("iscrowd", 0)))
        box, mask = annotation.get("bbox"), None
        if kind == "segm" or box is None:
            try:
                mask = self._mask(annotation)
            except ValueError as error:
                name = shown(annotation.get("id"))
                raise DataError(
                    f"annotation {name} of image {own['image_id']} {error}; mend it, or leave it out"
                ) from error
        if kind == "segm":
            own["segmentation"] = mask
        own["bbox"] = _box(mask) if box is None else list(box)
        own["area"] = annotation.get("area", own["bbox"][2] * own["bbox"][3] if mask is None else _area(mask))
        return own

    def _detection(self, number: int, result: Result, kind: Kind, mask_areas: bool) -> Annotation:
        own: Annotation = {name: result[name] for name in ("image_id", "category_id", "score")}
        own.update(id=number, iscrowd=0)
        box = result.get("bbox")
        mask = self._mask(result) if kind == "segm" or box is None else None
        if kind == "segm":
            own["segmentation"] = mask
        own["bbox"] = _box(mask) if box is None else list(box)
        own["area"] = _area(mask) if box is None or (mask is not None and mask_areas) else box[2] * box[3]
        return own

    def _mask(self, entry: Mapping[str, Any]) -> RunLengths:
        if not entry.get("segmentation"):
            raise ValueError("has no 'segmentation', which masks are judged by")
        height, width = self.images[entry["image_id"]]
        if not height or not width:
            raise ValueError(
                f"has a mask, and the annotations state no whole height and width of its image {entry['image_id']}"
            )
        return run_lengths(entry["segmentation"], height, width)


def _area(mask: RunLengths | None) -> int:
    from faster_coco_eval import mask as coco_masks

    return int(coco_masks.area([mask])[0])


def _box(mask: RunLengths | None) -> list[float]:
    from faster_coco_eval import mask as coco_masks

    box: list[float] = coco_masks.toBbox([mask])[0].tolist()
    return box


def read_ground_truth(source: Mapping[str, Any] | str | os.PathLike[str] | GroundTruth) -> GroundTruth:
    """Annotations in COCO's form, checked.

    Args:
        source: The mapping itself (images, annotations, categories), or the JSON file that holds it; a GroundTruth is
            returned as it is.

    Returns:
        What results can be judged by. The mapping given is not changed, nor copied.

    Raises:
        DataError: If the file cannot be read, or holds something else.

    Examples:
        >>> truth = read_ground_truth({
        ...     "images": [{"id": 7, "height": 480, "width": 640}],
        ...     "categories": [{"id": 18, "name": "dog"}],
        ...     "annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 10, 50, 40]}],
        ... })
        >>> truth.images[7], truth.categories[18], truth.objects("bbox", [7])[0]["area"]
        ((480, 640), 'dog', 2000)
    """
    if isinstance(source, GroundTruth):
        return source
    where = "the annotations" if isinstance(source, Mapping) else f"annotations '{os.fspath(source)}'"
    content = source if isinstance(source, Mapping) else _read(Path(source), where)
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list):
            raise DataError(f"{where} have no list '{name}'; give annotations in COCO's instances form")
    images = _by_id(content["images"], "image", where)
    categories = _by_id(content["categories"], "category", where)
    problems = [
        (number, problem)
        for number, annotation in enumerate(content["annotations"])
        if (problem := _problem(annotation)) is not None
    ]
    if problems:
        number, problem = problems[0]
        count = f"{len(problems)} of {len(content['annotations'])} cannot be used"
        raise DataError(
            f"{where}: annotation {number} (counted from 0) {problem} ({count}); mend them, or leave them out"
        )
    return GroundTruth(
        {id_: _size(image) for id_, image in images.items()},
        {id_: str(category.get("name", id_)) for id_, category in sorted(categories.items())},
        content["annotations"],
    )


def _read(path: Path, where: str) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror or error}; give a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} are not JSON, or cut off ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{where}: {kind_of(content)} where a mapping with images, annotations and categories is needed"
        )
    return content


def _by_id(entries: Sequence[object], what: str, where: str) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_whole(entry.get("id")):
            raise DataError(f"{where}: {what} {number} (counted from 0) has no whole number as 'id'; give each its own")
        if entry["id"] in found:
            raise DataError(f"{where}: two entries have the {what} id {entry['id']}; give each its own")
        found[entry["id"]] = entry
    return found


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    height, width = (_side(image.get(name)) for name in ("height", "width"))
    return (height, width) if height and width else (0, 0)


def _side(value: object) -> int:
    """Pixels; 0 where no whole number above 0 is stated, which may be written with a point."""
    whole = is_whole(value) or (isinstance(value, float) and value.is_integer())
    return max(0, int(value)) if whole else 0  # type: ignore[call-overload]


def _problem(annotation: object) -> str | None:
    """What is wrong with an annotation: the rest of a sentence; None for nothing."""
    if not isinstance(annotation, dict):
        return f"is {kind_of(annotation)}"
    for name in ("image_id", "category_id"):
        if not is_whole(annotation.get(name)):
            return f"has {name} {shown(annotation.get(name))}, which is no whole number"
    for name in ("area", "iscrowd"):
        if name in annotation and not is_number(annotation[name]):
            return f"has {name} {shown(annotation[name])}, which is no finite number"
    if "bbox" in annotation:
        return box_problem(annotation["bbox"])
    return None if annotation.get("segmentation") else "has neither 'bbox' nor 'segmentation'"
