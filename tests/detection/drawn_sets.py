"""Small sets of annotations and results that hypothesis draws."""

from hypothesis import strategies as st

SIDE = 128

_edges = st.integers(0, 96)
_sides = st.integers(0, 120)
_boxes = st.tuples(_edges, _edges, _sides, _sides).map(list)
_areas = st.sampled_from([100, 1023.5, 1024, 1024.5, 9215, 9216, 9217])  # at and around COCO's bounds


@st.composite
def sets(draw, *, ties=True):
    """Annotations and results, boxes as polygons too: few images, many overlaps, crowds, equal scores.

    Args:
        draw: Hypothesis's.
        ties: Whether results of one class in one image may have equal scores; others may in any case.
    """
    images = draw(st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True))
    categories = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True))
    owner = st.tuples(st.sampled_from(images), st.sampled_from(categories))
    annotations = []
    for (image_id, category_id), box, area, crowd in draw(
        st.lists(st.tuples(owner, _boxes, _areas, st.sampled_from([0, 0, 0, 1])), max_size=8)
    ):
        annotations.append(_entry(image_id, category_id, box, id=len(annotations) + 1, area=area, iscrowd=crowd))
    boxes = _boxes if not annotations else st.one_of(_boxes, st.sampled_from([a["bbox"] for a in annotations]))
    scores = st.sampled_from([0.1, 0.5, 0.9, 0.25, 1.0, 0.0])
    found = draw(
        st.lists(
            st.tuples(owner, boxes, st.integers(-9, 9), scores),
            max_size=14,
            unique_by=None if ties else lambda result: (result[0], result[3]),
        )
    )
    results = [
        _entry(image_id, category_id, [left + shift, top, width, height], score=score)
        for (image_id, category_id), (left, top, width, height), shift, score in found
    ]
    truth = {
        "images": [{"id": image_id, "height": SIDE, "width": SIDE} for image_id in images],
        "categories": [{"id": category_id, "name": f"class {category_id}"} for category_id in categories],
        "annotations": annotations,
    }
    return truth, results


def _entry(image_id, category_id, box, **more):
    left, top, width, height = box
    outline = [left, top, left + width, top, left + width, top + height, left, top + height]
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "segmentation": [outline], **more}
