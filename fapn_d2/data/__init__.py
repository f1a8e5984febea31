"""Data sets, their checks, and the pipeline from a file to a training sample.

Importing this package registers the data sets whose names are this project's own in Detectron2's catalogs, and does
nothing else. The other steps wait until ``add_fapn_config`` is called, because other projects may register the same
names when they are imported: Mapillary Vistas, the generated shapes and the test splits are registered, and ADE20K and
Cityscapes get their colours.
"""

from ..config.keys import when_loaded, when_used
from .checks import check_dataset, check_datasets
from .class_numbers import use_custom_data
from .datasets.ade20k import complete_ade20k
from .datasets.camvid import register_camvid
from .datasets.cityscapes import complete_cityscapes, repair_cityscapes
from .datasets.cityscapes_panoptic import register_cityscapes_panoptic
from .datasets.coco_stuff import register_coco_stuff
from .datasets.coco_stuff_2017 import register_coco_stuff_2017
from .datasets.coco_subset import register_coco_subsets
from .datasets.custom import register_custom
from .datasets.mapillary import register_mapillary
from .datasets.pascal_context import register_pascal_context
from .datasets.shapes import generate_shapes, register_shapes
from .datasets.unlabelled import register_unlabelled
from .loaders import build_test_loader, build_train_loader
from .mapper import PyramidDatasetMapper

register_camvid()
register_coco_stuff()
register_coco_stuff_2017()
register_coco_subsets()
register_pascal_context()
register_cityscapes_panoptic()
repair_cityscapes()
when_used.extend((register_shapes, register_unlabelled, register_mapillary, complete_ade20k, complete_cityscapes))
when_loaded.append(use_custom_data)

__all__ = [
    "PyramidDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "check_dataset",
    "check_datasets",
    "generate_shapes",
    "register_custom",
]
