"""Checks before a training or an evaluation starts: is the data set registered, complete, and fit for the model?"""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from ..config.lookup import value_of
from ..messages import nearest, similar
from .datasets.catalog import locate
from .datasets.custom import check_custom, register_custom
from .datasets.unlabelled import unlabelled
from .missing_files import check_files

#: Meta-architecture -> labels that it learns from -> key with its number of classes. A subclass needs what its nearest
#: listed ancestor needs. The number of classes is not checked for a meta-architecture without such an ancestor.
NEEDS: dict[str, dict[str, str | None]] = {
    "ProposalNetwork": {"objects": None},
    "GeneralizedRCNN": {"objects": "MODEL.ROI_HEADS.NUM_CLASSES"},
    "RetinaNet": {"objects": "MODEL.RETINANET.NUM_CLASSES"},
    "FCOS": {"objects": "MODEL.FCOS.NUM_CLASSES"},
    "SemanticSegmentor": {"regions": "MODEL.SEM_SEG_HEAD.NUM_CLASSES"},
    "PanopticFCN": {"objects": "MODEL.PANOPTIC_FCN.NUM_CLASSES", "regions": "MODEL.SEM_SEG_HEAD.NUM_CLASSES"},
    "MaskFormer": {"regions": "MODEL.SEM_SEG_HEAD.NUM_CLASSES"},
    "PanopticMaskFormer": {"objects": "MODEL.ROI_HEADS.NUM_CLASSES", "regions": "MODEL.SEM_SEG_HEAD.NUM_CLASSES"},
    "PanopticFPN": {"objects": "MODEL.ROI_HEADS.NUM_CLASSES", "regions": "MODEL.SEM_SEG_HEAD.NUM_CLASSES"},
}
#: Meta-architecture -> labels -> key of a loss weight; with a weight of 0 the labels are not needed.
_WEIGHTS = {
    "TwoTaskPanopticFPN": {
        "objects": "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT",
        "regions": "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
    }
}

_CLASS_NAMES = {"objects": "thing_classes", "regions": "stuff_classes"}

#: "evaluator_type" of a data set -> kinds of labels that it has.
_LABELS = {
    "coco": {"objects"},
    "lvis": {"objects"},
    "pascal_voc": {"objects"},
    "cityscapes_instance": {"objects"},
    "sem_seg": {"regions"},
    "cityscapes_sem_seg": {"regions"},
    "coco_panoptic_seg": {"objects", "regions"},
    "cityscapes_panoptic_seg": {"objects", "regions"},
}


def check_datasets(cfg: CfgNode, names: Sequence[str] | None = None) -> None:
    """:func:`check_dataset` for each of ``names``; by default all of DATASETS.TRAIN and DATASETS.TEST."""
    register_custom(cfg)
    if names is None:
        names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for name in dict.fromkeys([names] if isinstance(names, str) else names):
        check_dataset(cfg, name)


def check_dataset(cfg: CfgNode, name: str) -> None:
    """Raise the errors at once that a training or an evaluation on ``name`` would raise later, perhaps hours later.

    It lists folders and searches JSON files, but opens no image. A data set that is generated ("shapes") is generated
    here if it does not exist.

    Args:
        cfg: the config of the model. A data set in DATASETS.TRAIN must have every kind of labels that the model learns
            from; any other data set must have at least one of them.
        name: a name in Detectron2's catalog.

    Raises:
        ValueError: the name is unknown (the nearest are suggested); the data set lacks labels that the model needs; the
            numbers of classes or the ignore values of data set and config differ.
        FileNotFoundError: files or folders are missing or incomplete.
    """
    if name not in DatasetCatalog:
        hint = nearest(name, DatasetCatalog, cutoff=0.5, otherwise="; see DatasetCatalog.list()")
        raise ValueError(
            f'data set "{name}" is not registered; own data: describe it under DATASETS.CUSTOM, or register it in a '
            f"Python file and add --import FILE (datasets/README.md){hint}"
        )
    locate(name)
    if name in cfg.DATASETS.TRAIN and unlabelled(name):
        raise ValueError(f"data set {name} has no public labels, so that nothing can be trained on it")
    try:
        check_files(name)
        check_custom(name)
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"data set {name}: {error}") from error
    needs = needed_labels(cfg)
    shared = _check_labels(cfg, name, needs)
    for kind in needs.keys() & shared:
        _check_classes(cfg, name, kind)
    if "regions" in shared and name in cfg.DATASETS.TRAIN:
        ignored, ours = MetadataCatalog.get(name).get("ignore_label"), cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        if ignored is not None and ignored != ours:
            raise ValueError(
                f"data set {name} marks unlabelled pixels with {ignored}, MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {ours}; "
                f"set it to {ignored}"
            )


def needed_labels(cfg: CfgNode) -> dict[str, str | None]:
    """Kind of labels that the model learns from -> key of their number of classes, or None without classes."""
    if cfg.MODEL.META_ARCHITECTURE not in META_ARCH_REGISTRY:
        return {}  # building the model says so
    ancestors = [kind.__name__ for kind in META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).__mro__]
    needs = next((NEEDS[name] for name in ancestors if name in NEEDS), {})
    weights = next((_WEIGHTS[name] for name in ancestors if name in _WEIGHTS), {})
    return {kind: key for kind, key in needs.items() if kind not in weights or value_of(cfg, weights[kind])}


def _check_labels(cfg: CfgNode, name: str, needs: dict[str, str | None]) -> set[str]:
    """Kinds of labels that both the model and the data set have."""
    available = _labels(name)
    if available is None:
        return set(needs)
    missing = needs.keys() - available
    if missing and (name in cfg.DATASETS.TRAIN or missing == needs.keys()):
        fit = [other for other in DatasetCatalog if needs.keys() <= (_labels(other) or set())]
        near = similar(name, fit, limit=2, cutoff=0.3)
        raise ValueError(
            f"data set {name} has labels of {' and '.join(sorted(available))} only, "
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} needs {' and '.join(sorted(needs))}"
            + (f"; try {' or '.join(near)}" if near else "")
        )
    return needs.keys() & available


def _labels(name: str) -> set[str] | None:
    """Kinds of labels that a data set has; None where its evaluator_type is not one of Detectron2's."""
    return _LABELS.get(MetadataCatalog.get(name).get("evaluator_type"))


def _check_classes(cfg: CfgNode, name: str, kind: str) -> None:
    metadata = MetadataCatalog.get(name)
    if not metadata.get(_CLASS_NAMES[kind]):
        DatasetCatalog.get(name)  # loading a COCO file fills in the names of its classes
    classes = metadata.get(_CLASS_NAMES[kind])
    if not classes:
        return
    shown = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
    for key in class_keys(cfg, kind):
        configured = value_of(cfg, key)
        if configured != len(classes):
            raise ValueError(
                f"data set {name} has {len(classes)} classes of {kind} ({shown}), "
                f"{key} is {configured}; set it to {len(classes)}"
            )


def class_keys(cfg: CfgNode, kind: str) -> list[str]:
    """Keys that must hold the number of classes; none where the model of ``cfg`` does not learn such labels.

    Args:
        cfg: the config of the model. PointRend's point head has a key of its own.
        kind: "objects" or "regions".
    """
    keys = [key for key in [needed_labels(cfg).get(kind)] if key]
    if kind == "objects":
        points = keys and cfg.MODEL.MASK_ON and cfg.MODEL.ROI_MASK_HEAD.get("POINT_HEAD_ON", False)
    else:
        points = cfg.MODEL.SEM_SEG_HEAD.NAME == "PointRendSemSegHead"
    return keys + ["MODEL.POINT_HEAD.NUM_CLASSES"] if points else keys
