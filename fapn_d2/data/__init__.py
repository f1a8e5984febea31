"""Data sets, their checks, and the way from a file to a training sample.

Importing this package registers the data sets in Detectron2's catalogs and does nothing else.
"""

from .ade20k import complete_ade20k
from .camvid import register_camvid
from .checks import check_dataset, check_datasets
from .cityscapes import complete_cityscapes
from .coco_stuff import register_coco_stuff
from .coco_subset import register_coco_subsets
from .loaders import build_test_loader, build_train_loader
from .mapillary import register_mapillary
from .mapper import PyramidDatasetMapper
from .pascal_context import register_pascal_context
from .shapes import generate_shapes, register_shapes

register_camvid()
register_coco_stuff()
register_coco_subsets()
register_mapillary()
register_pascal_context()
register_shapes()
complete_ade20k()
complete_cityscapes()

__all__ = [
    "PyramidDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "check_dataset",
    "check_datasets",
    "generate_shapes",
]
