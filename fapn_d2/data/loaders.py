"""Detectron2's data loaders with this project's mapper."""

from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_test_loader,
    build_detection_train_loader,
)

from ..config.values import check_data_names
from .bad_images import SkipBadImages
from .class_points import find_points
from .class_uniform_sampler import SAMPLER_NAME, ClassUniformSampler, RecordsWithPoints, log_classes
from .proposals import RecordsWithProposals, files_of, records_and_files
from .records import needs_masks, training_records
from .regions import build_mapper


def build_train_loader(
    cfg: CfgNode, *, mapper: Callable | None = None, sampler: torch.utils.data.Sampler | None = None
):
    """Endless batches of DATASETS.TRAIN for this process: lists of SOLVER.IMS_PER_BATCH / processes samples.

    Args:
        cfg: DATASETS, DATALOADER, INPUT and SOLVER.IMS_PER_BATCH are read.
        mapper: record -> sample; default :func:`build_mapper`.
        sampler: order of the records. The default is the sampler that DATALOADER.SAMPLER_TRAIN names: one of
            Detectron2's, or "ClassUniformSampler", with which records may have "class_point"
            (class_uniform_sampler.py).

    Raises:
        ValueError, FileNotFoundError: DATASETS.TRAIN is empty; see :func:`training_records`, :func:`find_points`,
            :class:`ClassUniformSampler` and, under MODEL.LOAD_PROPOSALS, :func:`files_of` and
            :func:`records_and_files`.
    """
    check_data_names(cfg, training=True)
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    options = {"filter_empty": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, "min_keypoints": keypoints}
    # Serialized once and shared, also between forked processes.
    if cfg.MODEL.LOAD_PROPOSALS:
        paths = files_of(cfg, cfg.DATASETS.TRAIN, training=True)
        records, files = records_and_files(cfg.DATASETS.TRAIN, paths, **options)
        images = RecordsWithProposals(DatasetFromList(records, copy=False), files)
    else:
        images = DatasetFromList(training_records(cfg.DATASETS.TRAIN, masks=needs_masks(cfg), **options), copy=False)
    dataset = images
    if sampler is None and cfg.DATALOADER.SAMPLER_TRAIN == SAMPLER_NAME:
        dataset, sampler = _class_uniform(cfg, images)
    mapper = mapper or build_mapper(cfg, is_train=True)
    if cfg.INPUT.MAX_BAD_IMAGES:
        log_file = Path(cfg.OUTPUT_DIR) / "bad_images.txt"
        mapper = SkipBadImages(mapper, images, limit=cfg.INPUT.MAX_BAD_IMAGES, log_file=log_file)
    return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset, sampler=sampler)


def _class_uniform(cfg: CfgNode, images: torch.utils.data.Dataset) -> tuple[RecordsWithPoints, ClassUniformSampler]:
    node, head = cfg.DATALOADER.CLASS_UNIFORM, cfg.MODEL.SEM_SEG_HEAD
    points = find_points(
        images,
        tile=node.TILE,
        folder=node.CACHE or cfg.OUTPUT_DIR,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        skip_bad=cfg.INPUT.MAX_BAD_IMAGES > 0,
    )
    with_points = RecordsWithPoints(images, points, num_classes=head.NUM_CLASSES, ignore_value=head.IGNORE_VALUE)
    sampler = ClassUniformSampler(with_points.num_images, with_points.classes, fraction=node.FRACTION)
    log_classes(with_points.classes, head.NUM_CLASSES)
    return with_points, sampler


def build_test_loader(cfg: CfgNode, name: str, *, mapper: Callable | None = None):
    """Each image of the data set ``name`` once, divided among the processes, one image per batch.

    Args:
        cfg: DATALOADER and INPUT are read.
        name: a name in Detectron2's catalog.
        mapper: record -> sample; default :func:`build_mapper`.

    Raises:
        ValueError, FileNotFoundError: under MODEL.LOAD_PROPOSALS, see :func:`files_of` and :func:`records_and_files`.
    """
    mapper = mapper or build_mapper(cfg, is_train=False)
    if not cfg.MODEL.LOAD_PROPOSALS:
        return build_detection_test_loader(cfg, name, mapper=mapper)
    records, files = records_and_files([name], files_of(cfg, [name], training=False), filter_empty=False)
    dataset = RecordsWithProposals(DatasetFromList(records, copy=False), files)
    return build_detection_test_loader(dataset=dataset, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
