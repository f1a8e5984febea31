"""Effective values of FaPN's configs against the authors' files, written out here, and against Detectron2's own.

The lists are the settings of the official YAMLs after all their bases, as collected for this project.
"""

from pathlib import Path

import detectron2
import pytest

from fapn_d2.config.loading import default_config, leaves, load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "fapn"
ZOO = Path(detectron2.__file__).parent / "model_zoo" / "configs"

# Tables 1 to 6: what all official configs share
COMMON = {
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "INPUT.FORMAT": "BGR",
    "MODEL.FPN.NORM": "",
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.FPN.FUSE_TYPE": "sum",
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.NESTEROV": False,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "INPUT.RANDOM_FLIP": "horizontal",
    "TEST.AUG.ENABLED": False,
}
DEPTH = {
    50: {"MODEL.RESNETS.DEPTH": 50, "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-50.pkl"},
    101: {"MODEL.RESNETS.DEPTH": 101, "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-101.pkl"},
}
COCO = {
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "INPUT.MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800],
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.CROP.ENABLED": False,
    "INPUT.COLOR_AUG_SSD": False,
    "INPUT.MASK_FORMAT": "polygon",
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
}
SCHEDULE = {
    "1x": {"SOLVER.STEPS": [60000, 80000], "SOLVER.MAX_ITER": 90000},
    "3x": {"SOLVER.STEPS": [210000, 250000], "SOLVER.MAX_ITER": 270000},
}
FASTER = {"MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.MASK_ON": False}
MASK = {"MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.MASK_ON": True}
PANOPTIC = {
    "MODEL.META_ARCHITECTURE": "PanopticFPN",
    "MODEL.MASK_ON": True,
    "DATASETS.TRAIN": ["coco_2017_train_panoptic_separated"],
    "DATASETS.TEST": ["coco_2017_val_panoptic_separated"],
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 0.5,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 54,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": 0.5,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": 4096,
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": 0.5,
}
POINTREND_INSTANCE = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.MASK_ON": True,
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": True,
    "MODEL.ROI_MASK_HEAD.NAME": "PointRendMaskHead",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "",
    "MODEL.ROI_MASK_HEAD.IN_FEATURES": ["p2"],
    "MODEL.ROI_MASK_HEAD.FC_DIM": 1024,
    "MODEL.ROI_MASK_HEAD.NUM_FC": 2,
    "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON": True,
    "MODEL.POINT_HEAD.IN_FEATURES": ["p2"],
    "MODEL.POINT_HEAD.FC_DIM": 256,
    "MODEL.POINT_HEAD.NUM_FC": 3,
    "MODEL.POINT_HEAD.NUM_CLASSES": 80,
    "MODEL.POINT_HEAD.TRAIN_NUM_POINTS": 196,
    "MODEL.POINT_HEAD.SUBDIVISION_STEPS": 5,
    "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": 784,
    "MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER": True,
    "INPUT.MASK_FORMAT": "bitmask",
}
POINTREND_SEMANTIC = {
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.NAME": "PointRendSemSegHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 128,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 1.0,
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 19,
    "MODEL.POINT_HEAD.NUM_CLASSES": 19,
    "MODEL.POINT_HEAD.NAME": "StandardPointHead",
    "MODEL.POINT_HEAD.IN_FEATURES": ["p2"],
    "MODEL.POINT_HEAD.FC_DIM": 256,
    "MODEL.POINT_HEAD.NUM_FC": 3,
    "MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME": "SemSegFPNHead",
    "MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER": False,
    "MODEL.POINT_HEAD.TRAIN_NUM_POINTS": 2048,
    "MODEL.POINT_HEAD.OVERSAMPLE_RATIO": 3,
    "MODEL.POINT_HEAD.IMPORTANCE_SAMPLE_RATIO": 0.75,
    "MODEL.POINT_HEAD.SUBDIVISION_STEPS": 2,
    "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": 8192,
    "DATASETS.TRAIN": ["cityscapes_fine_sem_seg_train"],
    "DATASETS.TEST": ["cityscapes_fine_sem_seg_val"],
    "DATALOADER.NUM_WORKERS": 10,
    "INPUT.MIN_SIZE_TRAIN": [512, 768, 1024, 1280, 1536, 1792, 2048],
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 4096,
    "INPUT.MIN_SIZE_TEST": 1024,
    "INPUT.MAX_SIZE_TEST": 2048,
    "INPUT.COLOR_AUG_SSD": True,
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "absolute",
    "INPUT.CROP.SIZE": [512, 1024],
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 0.75,
    "SOLVER.IMS_PER_BATCH": 32,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.STEPS": [40000, 55000],
    "SOLVER.MAX_ITER": 65000,
}
RETINANET = {
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.NECK.TOP_BLOCK": "p6p7",
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "SOLVER.BASE_LR": 0.01,
}
PANOPTIC_FCN = {
    "MODEL.META_ARCHITECTURE": "PanopticFCN",
    "MODEL.MASK_ON": True,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],  # in the order of RGB, for images in BGR
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.NECK.TOP_BLOCK": "p6p7",
    "MODEL.NECK.TOP_BLOCK_IN": "p5",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 54,
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255,
    "MODEL.PANOPTIC_FCN.NUM_CLASSES": 80,
    "MODEL.PANOPTIC_FCN.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.PANOPTIC_FCN.OBJECT_SCALES": [[1, 64], [32, 128], [64, 256], [128, 512], [256, 2048]],
    "MODEL.PANOPTIC_FCN.POSITION_HEAD.NUM_CONVS": 3,
    "MODEL.PANOPTIC_FCN.POSITION_HEAD.CONVS_DIM": 256,
    "MODEL.PANOPTIC_FCN.POSITION_HEAD.NORM": "GN",
    "MODEL.PANOPTIC_FCN.POSITION_HEAD.COORD": False,
    "MODEL.PANOPTIC_FCN.POSITION_HEAD.DEFORM": True,
    "MODEL.PANOPTIC_FCN.POSITION_HEAD.BIAS_VALUE": -2.19,
    "MODEL.PANOPTIC_FCN.KERNEL_HEAD.NUM_CONVS": 3,
    "MODEL.PANOPTIC_FCN.KERNEL_HEAD.CONVS_DIM": 256,
    "MODEL.PANOPTIC_FCN.KERNEL_HEAD.NORM": "GN",
    "MODEL.PANOPTIC_FCN.KERNEL_HEAD.COORD": True,
    "MODEL.PANOPTIC_FCN.KERNEL_HEAD.DEFORM": False,
    "MODEL.PANOPTIC_FCN.FEATURE_ENCODER.NUM_CONVS": 3,
    "MODEL.PANOPTIC_FCN.FEATURE_ENCODER.CONVS_DIM": 64,
    "MODEL.PANOPTIC_FCN.FEATURE_ENCODER.NORM": "",
    "MODEL.PANOPTIC_FCN.FEATURE_ENCODER.COORD": True,
    "MODEL.PANOPTIC_FCN.FEATURE_ENCODER.DEFORM": False,
    "MODEL.PANOPTIC_FCN.CENTER": "mass",
    "MODEL.PANOPTIC_FCN.MIN_OVERLAP": 0.7,
    "MODEL.PANOPTIC_FCN.GAUSSIAN_SIGMA": 3,
    "MODEL.PANOPTIC_FCN.POSITION_WEIGHT": 1.0,
    "MODEL.PANOPTIC_FCN.SEGMENT_WEIGHT": 3.0,
    "MODEL.PANOPTIC_FCN.FOCAL_LOSS_ALPHA": 0.25,
    "MODEL.PANOPTIC_FCN.FOCAL_LOSS_GAMMA": 2.0,
    "MODEL.PANOPTIC_FCN.THING_THRESH_TEST": 0.2,
    "MODEL.PANOPTIC_FCN.STUFF_THRESH_TEST": 0.1,
    "MODEL.PANOPTIC_FCN.SMOOTHING_TEST": [3, 3, 3, 5, 5],
    "MODEL.PANOPTIC_FCN.SIMILARITY_THRESH_TEST": 0.9,
    "MODEL.PANOPTIC_FCN.MASK_THRESH_TEST": 0.4,
    "MODEL.PANOPTIC_FCN.SCORE_THRESH_TEST": 0.05,
    "MODEL.PANOPTIC_FCN.TOPK_TEST": 100,
    "MODEL.PANOPTIC_FPN.COMBINE.ENABLED": True,
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": 0.5,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": 4096,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": 0.2,
    "DATASETS.TRAIN": ["coco_2017_train_panoptic_separated"],
    "DATASETS.TEST": ["coco_2017_val_panoptic_separated"],
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "INPUT.MASK_FORMAT": "bitmask",
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.WEIGHT_DECAY_BIAS": None,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR",
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
    "SOLVER.AMP.ENABLED": False,
}
SMALLER_IMAGES = {
    "INPUT.MIN_SIZE_TRAIN": [440, 472, 504, 536, 568, 600],
    "INPUT.MAX_SIZE_TRAIN": 1000,
    "INPUT.MIN_SIZE_TEST": 600,
    "INPUT.MAX_SIZE_TEST": 1000,
}
EXPECTED = {
    "faster_rcnn_R_50_{}_1x": COCO | FASTER | DEPTH[50] | SCHEDULE["1x"],
    "faster_rcnn_R_101_{}_3x": COCO | FASTER | DEPTH[101] | SCHEDULE["3x"],
    "mask_rcnn_R_50_{}_1x": COCO | MASK | DEPTH[50] | SCHEDULE["1x"],
    "mask_rcnn_R_101_{}_3x": COCO | MASK | DEPTH[101] | SCHEDULE["3x"],
    "pointrend_rcnn_R_50_{}_1x": COCO | POINTREND_INSTANCE | DEPTH[50] | SCHEDULE["1x"],
    "panoptic_R_50_{}_1x": COCO | PANOPTIC | DEPTH[50] | SCHEDULE["1x"],
    "panoptic_R_101_{}_3x": COCO | PANOPTIC | DEPTH[101] | SCHEDULE["3x"],
    "panopticfcn_R_50_{}_1x": COCO
    | PANOPTIC_FCN
    | DEPTH[50]
    | {"MODEL.PANOPTIC_FCN.POS_NUM": 7, "SOLVER.MAX_ITER": 90000},
    "panopticfcn_R_50_600_{}_3x": COCO
    | PANOPTIC_FCN
    | DEPTH[50]
    | SMALLER_IMAGES
    | {"MODEL.PANOPTIC_FCN.POS_NUM": 5, "SOLVER.MAX_ITER": 270000},
    "retinanet_R_50_{}_1x": COCO | RETINANET | DEPTH[50] | SCHEDULE["1x"],
    "retinanet_R_101_{}_3x": COCO | RETINANET | DEPTH[101] | SCHEDULE["3x"],
    "pointrend_semantic_R_50_{}_cityscapes": POINTREND_SEMANTIC | DEPTH[50],
    "pointrend_semantic_R_101_{}_cityscapes": POINTREND_SEMANTIC | DEPTH[101],
}
# Tables 8 and I: Appendix B of the paper, which has no official files
REALTIME = {
    "MODEL.NECK.LATERAL": "feature_selection",
    "MODEL.NECK.FUSE": "concat",
    "MODEL.NECK.OUTPUT": "identity",
    "MODEL.NECK.DEFORM.UPSAMPLE": "nearest",
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 128,
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["p3"],
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 5e-4,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR",
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
    "SOLVER.WARMUP_ITERS": 0,
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.SCALE_CROP.ENABLED": True,
    "INPUT.SCALE_CROP.SCALES": [0.75, 1.0, 1.25, 1.5, 1.75, 2.0],
    "INPUT.SCALE_CROP.SAMPLING": "choice",
    "TEST.AUG.ENABLED": False,
}
REALTIME_DATA = {
    "cityscapes": {
        "DATASETS.TRAIN": ["cityscapes_fine_sem_seg_train"],
        "DATASETS.TEST": ["cityscapes_fine_sem_seg_val"],
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 19,
        "INPUT.SCALE_CROP.SIZE": [768, 1536],
        "SOLVER.MAX_ITER": 40000,
    },
    "coco_stuff": {
        "DATASETS.TRAIN": ["coco_stuff_10k_171_sem_seg_train"],
        "DATASETS.TEST": ["coco_stuff_10k_171_sem_seg_test"],
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 171,
        "INPUT.SCALE_CROP.SIZE": [640, 640],
        "SOLVER.MAX_ITER": 20000,
    },
}
# ours -> Detectron2's file of the same network with FPN; the authors changed the name of the backbone and nothing else
MODEL_ZOO = {
    "faster_rcnn_R_50_FPN_1x": "COCO-Detection/faster_rcnn_R_50_FPN_1x",
    "faster_rcnn_R_101_FPN_3x": "COCO-Detection/faster_rcnn_R_101_FPN_3x",
    "mask_rcnn_R_50_FPN_1x": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
    "mask_rcnn_R_101_FPN_3x": "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x",
    "panoptic_R_50_FPN_1x": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x",
    "panoptic_R_101_FPN_3x": "COCO-PanopticSegmentation/panoptic_fpn_R_101_3x",
    "retinanet_R_50_FPN_1x": "COCO-Detection/retinanet_R_50_FPN_1x",
    "retinanet_R_101_FPN_3x": "COCO-Detection/retinanet_R_101_FPN_3x",
}


def values(cfg):
    """{key: value}, sequences as lists."""
    return {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in leaves(cfg)}


def effective(name):
    return values(load_config(str(CONFIGS / f"{name}.yaml")))


@pytest.mark.parametrize("neck", ["FPN", "FaPN"])
@pytest.mark.parametrize("name", EXPECTED)
def test_values_of_the_official_files(name, neck):
    found = effective(name.format(neck))
    expected = COMMON | EXPECTED[name] | {"MODEL.NECK.PRESET": neck.lower()}
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("data", REALTIME_DATA)
@pytest.mark.parametrize("depth", [18, 34])
def test_values_of_appendix_b(depth, data):
    found = effective(f"realtime_R_{depth}_FaPN_{data}")
    expected = REALTIME | REALTIME_DATA[data] | {"MODEL.RESNETS.DEPTH": depth}
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("name", EXPECTED)
def test_pairs_differ_in_the_neck_alone(name):
    fpn, fapn = effective(name.format("FPN")), effective(name.format("FaPN"))
    assert {key for key in fpn if fpn[key] != fapn[key]} == {"MODEL.NECK.PRESET"}


@pytest.mark.parametrize("name", MODEL_ZOO)
def test_every_other_key_is_detectron2s(name):
    zoo = default_config()
    zoo.merge_from_file(str(ZOO / f"{MODEL_ZOO[name]}.yaml"), allow_unsafe=True)  # RetinaNet's anchors are code
    ours, theirs = effective(name), values(zoo)
    differing = {key for key in ours if ours[key] != theirs[key]}
    if name.startswith("retinanet"):
        assert theirs["MODEL.BACKBONE.NAME"] == "build_retinanet_resnet_fpn_backbone"
        assert differing == {"MODEL.BACKBONE.NAME", "MODEL.NECK.PRESET", "MODEL.NECK.TOP_BLOCK"}
    else:
        assert theirs["MODEL.BACKBONE.NAME"] == "build_resnet_fpn_backbone"
        assert differing == {"MODEL.BACKBONE.NAME", "MODEL.NECK.PRESET"}
