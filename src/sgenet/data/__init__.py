"""Images in: sources of labelled images, how they are brought to size and varied, and loaders."""

from sgenet.data.decode import decode_image
from sgenet.data.folder import FileSource
from sgenet.data.loaders import Batch, BatchLoader, eval_loader, normalise, train_loader
from sgenet.data.opening import open_data
from sgenet.data.resident import ResidentImages, ResidentLoader, fits
from sgenet.data.source import ArraySource, ClassificationData, ImageSource, UnreadableImage
from sgenet.data.transforms import Augmentation, EvalTransform, Preprocessing, TrainTransform

__all__ = [
    "ArraySource",
    "Augmentation",
    "Batch",
    "BatchLoader",
    "ClassificationData",
    "EvalTransform",
    "FileSource",
    "ImageSource",
    "Preprocessing",
    "ResidentImages",
    "ResidentLoader",
    "TrainTransform",
    "UnreadableImage",
    "decode_image",
    "eval_loader",
    "fits",
    "normalise",
    "open_data",
    "train_loader",
]
