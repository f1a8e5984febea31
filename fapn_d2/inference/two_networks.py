"""One panoptic result of two networks: objects of one, semantic map of the other (Panoptic FPN, Table 3, "x2")."""

from collections import OrderedDict

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from ..config.lookup import value_of
from ..evaluation import build_evaluator
from ..evaluation.panoptic import PanopticEvaluator
from ..meta_arch.panoptic_fpn import PanopticMerge, merged
from .trained import load_trained

#: Name of the result without objects, in outputs and in scores.
SEMANTIC_ALONE = "panoptic_seg_semantic_alone"
_SAME_IMAGES = ("INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")


class TwoNetworks(nn.Module):
    """Two networks that see the same images; for inference only.

    Args:
        instances: network whose results have "instances" with masks.
        semantic: network whose results have "sem_seg".
        merge: makes the panoptic result of both.
    """

    def __init__(self, instances: nn.Module, semantic: nn.Module, merge: PanopticMerge):
        super().__init__()
        self.instances = instances
        self.semantic = semantic
        self.merge = merge
        self.eval()

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Results for each image: "instances", "sem_seg", "panoptic_seg", and ``SEMANTIC_ALONE``, the panoptic result
        without objects."""
        results = []
        for found, classes in zip(self.instances(batched_inputs), self.semantic(batched_inputs)):
            result = {"instances": found["instances"], "sem_seg": classes["sem_seg"]}
            alone = merged(self.merge, {"sem_seg": classes["sem_seg"]})
            results.append(result | {"panoptic_seg": merged(self.merge, result), SEMANTIC_ALONE: alone})
        return results


def load_two_networks(instances: CfgNode, semantic: CfgNode) -> TwoNetworks:
    """The networks of two configs with their MODEL.WEIGHTS. The config of the instances says how to merge.

    Raises:
        ValueError: the configs read images of different sizes or formats, or the weights do not fit.
        FileNotFoundError: a file of weights does not exist.
    """
    for key in _SAME_IMAGES:
        values = [value_of(cfg, key) for cfg in (instances, semantic)]
        if values[0] != values[1]:
            raise ValueError(
                f"{key} is {values[0]} for the network of instances and {values[1]} for the semantic network; both see "
                "the same images, so it must be equal"
            )
    counted = instances.clone()
    counted.defrost()
    counted.MODEL.SEM_SEG_HEAD.NUM_CLASSES = semantic.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    return TwoNetworks(
        load_trained(instances, name="the network of instances"),
        load_trained(semantic, name="the semantic network"),
        PanopticMerge.from_config(counted),
    )


def two_networks_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    """What scores a :class:`TwoNetworks` on a panoptic data set: all that ``build_evaluator`` scores, and
    "panoptic_seg_semantic_alone".

    Raises:
        ValueError: the data set has no panoptic annotations.
    """
    evaluator = build_evaluator(cfg, dataset_name, folder)
    if "panoptic_seg" not in evaluator.evaluators:
        raise ValueError(
            f"DATASETS.TEST of the network of instances is {dataset_name}, which has no panoptic annotations; name a "
            "panoptic data set"
        )
    evaluator.evaluators[SEMANTIC_ALONE] = _SemanticAlone(dataset_name)
    return evaluator


class _SemanticAlone(DatasetEvaluator):
    """Panoptic quality of the result without objects."""

    def __init__(self, dataset_name: str):
        self._evaluator = PanopticEvaluator(dataset_name)

    def reset(self) -> None:
        self._evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self._evaluator.process(inputs, [{"panoptic_seg": output[SEMANTIC_ALONE]} for output in outputs])

    def evaluate(self) -> OrderedDict | None:
        scores = self._evaluator.evaluate()
        return OrderedDict({SEMANTIC_ALONE: scores["panoptic_seg"]}) if scores else None
