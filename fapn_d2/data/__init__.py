"""Data sets, their checks, and the way from a file to a training sample.

Importing this package registers the data sets in Detectron2's catalogs and does nothing else.
"""

from .camvid import register_camvid
from .checks import check_dataset, check_datasets
from .loaders import build_test_loader, build_train_loader
from .mapper import PyramidDatasetMapper
from .shapes import generate_shapes, register_shapes

register_camvid()
register_shapes()

__all__ = [
    "PyramidDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "check_dataset",
    "check_datasets",
    "generate_shapes",
]
