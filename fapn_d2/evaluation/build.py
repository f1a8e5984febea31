"""The choice of the evaluators for a data set."""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
)
from detectron2.modeling import META_ARCH_REGISTRY, ProposalNetwork
from detectron2.utils import comm

from ..config.hashing import config_hash
from ..config.values import CHOICES
from ..data.datasets.unlabelled import unlabelled
from .cityscapes.instance import CityscapesInstanceEvaluator
from .cityscapes.semantic import CityscapesSemSegEvaluator
from .coco import FastCOCOEvaluator
from .panoptic import PanopticEvaluator
from .proposals import BoxProposalEvaluator, SegmentProposalEvaluator
from .sem_seg import SemSegEvaluator
from .submission import kept
from .submission.keeper import PredictionKeeper
from .submission.writer import Limits

logger = logging.getLogger(__name__)

Builder = Callable[[CfgNode, str, str], DatasetEvaluator]
BACKENDS = CHOICES["TEST.BACKEND"]


def _official(cfg: CfgNode) -> bool:
    if cfg.TEST.BACKEND not in BACKENDS:
        raise ValueError(f"TEST.BACKEND is {cfg.TEST.BACKEND!r}; allowed are {' and '.join(BACKENDS)}")
    return cfg.TEST.BACKEND == "official"


def _coco(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    options = {"output_dir": folder, "kpt_oks_sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS}
    return COCOEvaluator(name, use_fast_impl=False, **options) if _official(cfg) else FastCOCOEvaluator(name, **options)


def _proposals(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "MaskProposals":
        return SegmentProposalEvaluator(name, score=cfg.TEST.PROPOSAL_RECALL, official=_official(cfg))
    if _official(cfg) and cfg.TEST.PROPOSAL_RECALL:
        return COCOEvaluator(name, output_dir=folder)
    return BoxProposalEvaluator(name, score=cfg.TEST.PROPOSAL_RECALL)


def _gives_proposals(cfg: CfgNode) -> bool:
    """Whether the network predicts proposals and no objects."""
    name = cfg.MODEL.META_ARCHITECTURE
    return name in META_ARCH_REGISTRY and issubclass(META_ARCH_REGISTRY.get(name), ProposalNetwork)


def _panoptic(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    if _official(cfg):
        return COCOPanopticEvaluator(name, folder)
    return PanopticEvaluator(name, os.path.join(folder, "panoptic") if cfg.TEST.KEEP_PREDICTIONS else None)


def _sem_seg(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return SemSegEvaluator(name, folder, boundary_widths=cfg.TEST.BOUNDARY_WIDTHS, keep=cfg.TEST.KEEP_PREDICTIONS)


def _cityscapes_sem_seg(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    kept = _official(cfg) or cfg.TEST.KEEP_PREDICTIONS  # the official script reads files
    return CityscapesSemSegEvaluator(
        name,
        prediction_dir=os.path.join(folder, "cityscapes_semantic") if kept else None,
        boundary_widths=cfg.TEST.BOUNDARY_WIDTHS,
        official=_official(cfg),
    )


def _cityscapes_instance(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    kept = os.path.join(folder, "cityscapes_instances") if cfg.TEST.KEEP_PREDICTIONS else None
    return CityscapesInstanceEvaluator(name, prediction_dir=kept)


def _voc(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return PascalVOCDetectionEvaluator(name)


def _lvis(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return LVISEvaluator(name, output_dir=folder)


#: "evaluator_type" in a data set's metadata -> (output of the network, what scores it).
EVALUATORS: dict[str, tuple[tuple[str, Builder], ...]] = {
    "coco": (("instances", _coco), ("proposals", _proposals)),
    "coco_panoptic_seg": (("instances", _coco), ("sem_seg", _sem_seg), ("panoptic_seg", _panoptic)),
    "sem_seg": (("sem_seg", _sem_seg),),
    "cityscapes_sem_seg": (("sem_seg", _cityscapes_sem_seg),),
    "cityscapes_instance": (("instances", _cityscapes_instance),),
    "cityscapes_panoptic_seg": (
        ("instances", _cityscapes_instance),
        ("sem_seg", _cityscapes_sem_seg),
        ("panoptic_seg", _panoptic),
    ),
    "pascal_voc": (("instances", _voc),),
    "lvis": (("instances", _lvis),),
}


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """What scores a data set, by the "evaluator_type" of its metadata; all that the data set has labels for.

    Args:
        cfg: TEST is read.
        dataset_name: a registered data set.
        output_folder: the folder for predictions and tables.

    Returns:
        An evaluator whose result has a task a key: "bbox", "segm", "sem_seg", "panoptic_seg". Tasks of which the
        network has no output are left out. Networks that only propose boxes are scored by "box_proposals", those that
        propose masks by "mask_proposals".

    Raises:
        ValueError: the data set has no "evaluator_type", or one that is unknown.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(
            f"the data set {dataset_name} has the evaluator_type {kind!r}; known are {', '.join(EVALUATORS)}"
        )
    origin = {"config": config_hash(cfg, without=("MODEL.WEIGHTS",)), "weights": cfg.MODEL.WEIGHTS}
    if unlabelled(dataset_name):
        limits = Limits.from_config(cfg)
        tasks = MetadataCatalog.get(dataset_name).submission
        keepers = {
            output: PredictionKeeper(dataset_name, names, output_folder, limits) for output, names in tasks.items()
        }
        return EvaluatorPerOutput(keepers, name=dataset_name, folder=output_folder, origin=origin)
    builders = dict(EVALUATORS[kind])
    if kind == "coco_panoptic_seg" and "sem_seg_file_name" not in DatasetCatalog.get(dataset_name)[0]:
        del builders["sem_seg"]  # Detectron2's "standard" panoptic data sets have no semantic label images
    if "proposals" in builders:  # both read the annotations, which takes long
        del builders["instances" if _gives_proposals(cfg) else "proposals"]
    evaluators = {output: builder(cfg, dataset_name, output_folder) for output, builder in builders.items()}
    return EvaluatorPerOutput(evaluators, name=dataset_name, folder=output_folder, origin=origin)


class EvaluatorPerOutput(DatasetEvaluator):
    """Gives each evaluator the outputs it scores, so that a network without some of them can be scored on the rest.

    Args:
        evaluators: name in the network's output -> evaluator.
        name: the name of the data set, for messages.
        folder: where the evaluators keep predictions; says there when they are complete.
        origin: the origin of the predictions; see :mod:`.submission.kept`.
    """

    def __init__(
        self,
        evaluators: dict[str, DatasetEvaluator],
        *,
        name: str = "the data set",
        folder: str = "",
        origin: dict | None = None,
    ):
        self.evaluators = evaluators
        self._name, self._folder, self._origin = name, folder, origin or {}
        self._given: set[str] = set()
        self._others: set[str] = set()

    def reset(self) -> None:
        self._given, self._others = set(), set()
        if self._folder:
            kept.begin(self._folder)
        for evaluator in self.evaluators.values():
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        present = set(outputs[0])
        self._others |= present - self.evaluators.keys()
        for name in present & self.evaluators.keys():
            self._given.add(name)
            self.evaluators[name].process(inputs, outputs)

    def evaluate(self) -> OrderedDict:
        """{task: {metric: value}}, empty on ranks other than 0.

        Raises:
            ValueError: the network gave none of the outputs that can be scored.
        """
        # A rank without images has seen none, but takes part in what the others gather.
        gathered = comm.all_gather((self._given, self._others))
        given = set().union(*(names for names, _ in gathered))
        if not given:
            others = sorted(set().union(*(names for _, names in gathered)))
            raise ValueError(f"the network gives {others}; this data set scores {list(self.evaluators)}")
        results = OrderedDict()
        for name, evaluator in self.evaluators.items():
            if name in given:
                results.update(evaluator.evaluate() or {})
        if self._folder:
            kept.end(self._folder, self._origin)
        if not results and comm.is_main_process():
            logger.info(
                "%s has no labels here: there is nothing to score. Its predictions are in %s; tools/submission.py "
                "write --predictions %s makes an archive for the server of them.",
                *(self._name, os.path.abspath(self._folder), self._folder),
            )
        return results
