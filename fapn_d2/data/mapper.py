"""From a record of a data set to the input of a model."""

import copy
from importlib.util import find_spec

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import polygons_to_bitmask
from fvcore.transforms.transform import Transform
from torch.utils.data import get_worker_info

from .augmentation import build_augmentations, crops, for_instance_masks
from .cropping import PointInput, ResizedCrop
from .reading import BadImageError, check_labels, read_image, read_labels


class PyramidDatasetMapper(DatasetMapper):
    """Detectron2's mapper for records with objects (``annotations``), regions (``sem_seg_file_name``) or both.

    Differences from ``DatasetMapper``:

    - The augmentations are those of :func:`build_augmentations`.
    - Errors name the file that cannot be read or that holds class numbers which the model does not have.
    - Labels are read as stored. In inference no labels are read at all (evaluators read their own).
    - With ``mask_format="bitmask"`` polygons stay polygons up to the last step, so cropping does not need shapely.
    - A crop may contain none of the objects of its image.

    Args:
        is_train: whether labels are read and returned.
        num_classes: number of classes; semantic labels may hold 0..num_classes-1.
        ignore_value: value that semantic labels may hold as well, for pixels that are not labelled.
        **kwargs: arguments of ``DatasetMapper``.
    """

    @configurable
    def __init__(self, is_train: bool, *, num_classes: int, ignore_value: int, **kwargs):
        super().__init__(is_train, **kwargs)
        self.num_classes = num_classes
        self.ignore_value = ignore_value

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        cropped = crops(cfg, is_train)
        masks_are_polygons = cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon"
        if cropped and masks_are_polygons and find_spec("shapely") is None:
            raise ValueError(
                'Cropping with INPUT.MASK_FORMAT "polygon" needs the package shapely, which is not installed: '
                'set INPUT.MASK_FORMAT "bitmask" or install shapely.'
            )
        return super().from_config(cfg, is_train) | {
            "augmentations": build_augmentations(cfg, is_train),
            "recompute_boxes": cropped and cfg.MODEL.MASK_ON,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Read, augment and pack one record.

        Args:
            dataset_dict: a record in Detectron2's format; it is not changed. "class_point" (row, column), if present,
                is a pixel that the crop must contain.

        Returns:
            The record with "image" (C, H, W) of the type read from the file; in training also "sem_seg" (H, W) int64
            and "instances", where the record has such labels.

        Raises:
            FileNotFoundError: the image or the label does not exist.
            BadImageError: one of them cannot be read, or their sizes differ from each other or from the record.
            ValueError: the labels do not fit the model.
        """
        _keep_opencv_to_one_thread()
        record = copy.deepcopy(dataset_dict)
        image = read_image(record["file_name"], self.image_format)
        try:
            detection_utils.check_image_size(record, image)
        except detection_utils.SizeMismatchError as error:
            raise BadImageError(str(error)) from error
        labels_file = record.pop("sem_seg_file_name", None)
        labels = self._labels(labels_file, image, record["file_name"]) if self.is_train and labels_file else None

        aug_input = PointInput(image, sem_seg=labels, class_point=record.pop("class_point", None))
        self._check_augmentations(aug_input, record)
        transforms = self.augmentations(aug_input)
        shape = aug_input.image.shape[:2]
        record["image"] = torch.as_tensor(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        if labels is not None:
            record["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(record, shape, transforms, proposal_topk=self.proposal_topk)
        annotations = record.pop("annotations", None)
        if self.is_train and annotations is not None:
            record["instances"] = self._instances(annotations, transforms, shape, record["file_name"])
        return record

    def _labels(self, path: str, image: np.ndarray, image_path: str) -> np.ndarray:
        labels = read_labels(path)
        if labels.shape != image.shape[:2]:
            raise BadImageError(
                f"image {image_path} has {image.shape[0]} x {image.shape[1]} pixels (H x W), its label {path} has "
                f"{labels.shape[0]} x {labels.shape[1]}; they must be of one size"
            )
        check_labels(labels, num_classes=self.num_classes, ignore_value=self.ignore_value, path=path)
        # Detectron2 resizes nothing but uint8 and floating point; float32 holds every class number exactly.
        return labels if labels.dtype == np.uint8 else labels.astype(np.float32)

    def _check_augmentations(self, aug_input: T.AugInput, record: dict) -> None:
        if aug_input.sem_seg is None and any(
            isinstance(a, ResizedCrop) and a.reads_labels for a in self.augmentations.augs
        ):
            raise ValueError(
                "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA < 1 needs semantic labels, of which the record of "
                f"{record['file_name']} has none; set it to 1.0"
            )

    def _instances(self, annotations: list[dict], transforms: Transform, shape: tuple[int, int], path: str):
        transforms = for_instance_masks(transforms)
        kept = [a for a in annotations if a.get("iscrowd", 0) == 0]
        transformed = [self._annotation(a, transforms, shape, path) for a in kept]
        instances = detection_utils.annotations_to_instances(transformed, shape, mask_format=self.instance_mask_format)
        # What a crop leaves of an object may not fill its cropped box. Instances without objects have no masks.
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return detection_utils.filter_empty_instances(instances)

    def _annotation(self, annotation: dict, transforms: Transform, shape: tuple[int, int], path: str) -> dict:
        if not self.use_keypoint:
            annotation.pop("keypoints", None)
        if not self.use_instance_mask:
            annotation.pop("segmentation", None)
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict) and self.instance_mask_format == "polygon":
            raise ValueError(
                f'{path}: an object is given as a run-length mask, which INPUT.MASK_FORMAT "polygon" cannot hold; '
                'set INPUT.MASK_FORMAT "bitmask"'
            )
        draw = isinstance(segmentation, list) and self.instance_mask_format == "bitmask"
        if draw:
            del annotation["segmentation"]
        annotation = detection_utils.transform_instance_annotations(
            annotation, transforms, shape, keypoint_hflip_indices=self.keypoint_hflip_indices
        )
        if draw:
            # Corners may lie outside the crop. Drawing cuts them off; fvcore's crop would need shapely for that.
            moved = [transforms.apply_coords(np.reshape(p, (-1, 2)).astype(float)).ravel() for p in segmentation]
            annotation["segmentation"] = polygons_to_bitmask(moved, *shape)
        return annotation


def _keep_opencv_to_one_thread() -> None:
    # Otherwise each loader process would start one thread per core, and all processes would compete for the cores.
    if get_worker_info() is not None and cv2.getNumThreads() > 1:
        cv2.setNumThreads(0)
