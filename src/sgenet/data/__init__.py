"""Images in: sources of labelled images and of images with boxes, how they are sized and varied, and loaders."""

from sgenet.data.coco import open_coco_file, open_coco_folder
from sgenet.data.decode import decode_image
from sgenet.data.detection import DetectionData, DetectionSource, Target
from sgenet.data.detection_loaders import (
    DetectionBatch,
    DetectionLoader,
    detection_eval_loader,
    detection_train_loader,
)
from sgenet.data.detection_transforms import DetectionAugmentation, DetectionTransform
from sgenet.data.folder import FileSource
from sgenet.data.loaders import Batch, BatchLoader, eval_loader, normalise, train_loader
from sgenet.data.opening import check_classes, open_data, open_judged_data
from sgenet.data.opening_detection import open_detection_data
from sgenet.data.resident import ResidentImages, ResidentLoader, fits
from sgenet.data.source import ArraySource, ClassificationData, ImageSource, UnreadableImage, fingerprint
from sgenet.data.transforms import Augmentation, EvalTransform, Preprocessing, TrainTransform
from sgenet.data.voc import open_voc_folder

__all__ = [
    "ArraySource",
    "Augmentation",
    "Batch",
    "BatchLoader",
    "ClassificationData",
    "DetectionAugmentation",
    "DetectionBatch",
    "DetectionData",
    "DetectionLoader",
    "DetectionSource",
    "DetectionTransform",
    "EvalTransform",
    "FileSource",
    "ImageSource",
    "Preprocessing",
    "ResidentImages",
    "ResidentLoader",
    "Target",
    "TrainTransform",
    "UnreadableImage",
    "check_classes",
    "decode_image",
    "detection_eval_loader",
    "detection_train_loader",
    "eval_loader",
    "fingerprint",
    "fits",
    "normalise",
    "open_coco_file",
    "open_coco_folder",
    "open_data",
    "open_detection_data",
    "open_judged_data",
    "open_voc_folder",
    "train_loader",
]
