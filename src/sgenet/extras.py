"""What the extras of the package bring, by the names that are imported."""

from __future__ import annotations

__all__ = ["EXTRAS", "extra_of", "modules_of"]

EXTRAS = {
    "train": ("pytorch_lightning", "rich", "tensorboard", "timm"),
    "detect": ("faster_coco_eval",),
    "study": ("jinja2", "markupsafe", "matplotlib", "optuna", "psycopg", "scipy", "sqlalchemy"),
    "export": ("onnx", "onnxscript"),
}
"""Each extra with what it brings itself."""

_BUILT_ON = {"detect": "train", "study": "train"}


def modules_of(extra: str) -> tuple[str, ...]:
    """All that an extra brings, with what the one brings that it builds on.

    Args:
        extra: A name of `EXTRAS`.

    Returns:
        Names of modules.

    Examples:
        >>> modules_of("detect")
        ('pytorch_lightning', 'rich', 'tensorboard', 'timm', 'faster_coco_eval')
    """
    below = modules_of(_BUILT_ON[extra]) if extra in _BUILT_ON else ()
    return (*below, *EXTRAS[extra])


def extra_of(module: str) -> str | None:
    """The extra that brings a module.

    Args:
        module: Its full name.

    Returns:
        The extra's name; None where none does.

    Examples:
        >>> extra_of("optuna.storages")
        'study'
    """
    top = module.partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), None)
