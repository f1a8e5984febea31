"""The evaluator of each kind of data set."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from fapn_d2.config.loading import load_config
from fapn_d2.evaluation import SemSegEvaluator, build_evaluator
from fapn_d2.evaluation.build import EvaluatorPerOutput
from tests.toys.cityscapes import make_tree


@pytest.fixture
def dataset(tmp_path):
    """register(kind, record) -> name; with the metadata that all kinds need together."""
    (tmp_path / "boxes.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    segments = {"images": [], "annotations": [{"image_id": 1}], "categories": [{"id": 1, "isthing": 1}]}
    (tmp_path / "segments.json").write_text(json.dumps(segments))
    names = []

    def register(kind: str | None, **record) -> str:
        names.append(f"toy_{kind}_{tmp_path.name}_{len(names)}")
        DatasetCatalog.register(names[-1], lambda: [{"file_name": "a.jpg", **record}])
        MetadataCatalog.get(names[-1]).set(
            json_file=str(tmp_path / "boxes.json"),
            panoptic_json=str(tmp_path / "segments.json"),
            panoptic_root=str(tmp_path),
            stuff_classes=["a"],
            thing_dataset_id_to_contiguous_id={1: 0},
            stuff_dataset_id_to_contiguous_id={2: 0},
        )
        if kind is not None:
            MetadataCatalog.get(names[-1]).evaluator_type = kind
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def kinds(evaluator) -> dict[str, str]:
    return {output: type(e).__name__ for output, e in evaluator.evaluators.items()}


def test_one_kind_one_evaluator(dataset, tmp_path):
    cfg = load_config()
    assert kinds(build_evaluator(cfg, dataset("coco"), str(tmp_path))) == {"instances": "FastCOCOEvaluator"}
    semantic = dataset("sem_seg", sem_seg_file_name="a.png")
    assert isinstance(build_evaluator(cfg, semantic, str(tmp_path)).evaluators["sem_seg"], SemSegEvaluator)


def test_a_network_that_only_proposes_is_scored_by_recall(dataset, tmp_path):
    cfg = load_config("", ["MODEL.META_ARCHITECTURE", "ProposalNetwork"])
    assert kinds(build_evaluator(cfg, dataset("coco"), str(tmp_path))) == {"proposals": "BoxProposalEvaluator"}
    cfg.TEST.BACKEND = "official"
    assert kinds(build_evaluator(cfg, dataset("coco"), str(tmp_path))) == {"proposals": "COCOEvaluator"}
    cfg.TEST.PROPOSAL_RECALL = False
    evaluator = build_evaluator(cfg, dataset("coco"), str(tmp_path))
    assert kinds(evaluator) == {"proposals": "BoxProposalEvaluator"}
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"proposals": None}])
    assert evaluator.evaluate() == {"box_proposals": {}}


def test_panoptic_data_are_scored_in_all_ways(dataset, tmp_path):
    cfg = load_config()
    full = build_evaluator(cfg, dataset("coco_panoptic_seg", sem_seg_file_name="a.png"), str(tmp_path))
    expected = {"instances": "FastCOCOEvaluator", "panoptic_seg": "PanopticEvaluator"}
    assert kinds(full) == expected | {"sem_seg": "SemSegEvaluator"}
    assert kinds(build_evaluator(cfg, dataset("coco_panoptic_seg"), str(tmp_path))) == expected


def test_official_backend(dataset, tmp_path):
    cfg = load_config()
    cfg.TEST.BACKEND = "official"
    expected = {"instances": "COCOEvaluator", "panoptic_seg": "COCOPanopticEvaluator"}
    assert kinds(build_evaluator(cfg, dataset("coco_panoptic_seg"), str(tmp_path))) == expected
    cfg.TEST.BACKEND = "quick"
    with pytest.raises(ValueError, match=r"TEST\.BACKEND is 'quick'; allowed are fast and official"):
        build_evaluator(cfg, dataset("coco"), str(tmp_path))


def test_cityscapes(tmp_path):
    pytest.importorskip("cityscapesscripts")
    files = make_tree(tmp_path, images=2)
    gt_dir, name = str(tmp_path / "gtFine" / "val"), f"toy_cityscapes_build_{tmp_path.name}"
    (tmp_path / "segments.json").write_text(json.dumps({"annotations": [{"image_id": 1}], "categories": []}))
    MetadataCatalog.get(name).set(
        gt_dir=gt_dir,
        thing_classes=["car"],
        evaluator_type="cityscapes_panoptic_seg",
        panoptic_json=str(tmp_path / "segments.json"),
        panoptic_root=gt_dir,
        thing_dataset_id_to_contiguous_id={},
        stuff_dataset_id_to_contiguous_id={},
    )
    cfg = load_config()
    cfg.TEST.BOUNDARY_WIDTHS = [3, 5]
    cfg.TEST.BACKEND = "official"
    evaluator = build_evaluator(cfg, name, str(tmp_path / "out"))
    assert kinds(evaluator) == {
        "instances": "CityscapesInstanceEvaluator",
        "sem_seg": "CityscapesSemSegEvaluator",
        "panoptic_seg": "COCOPanopticEvaluator",
    }
    evaluators = build_evaluator(load_config(), name, str(tmp_path / "fast")), evaluator
    batch = [{"file_name": str(file)} for file in files], [{"sem_seg": torch.rand(19, 96, 160)} for _ in files]
    for evaluator in evaluators:
        evaluator.reset()
        evaluator.process(*batch)
    fast, official = (evaluator.evaluate()["sem_seg"] for evaluator in evaluators)
    assert {key: official[key] for key in fast} == pytest.approx(fast, nan_ok=True)
    assert official.keys() - fast.keys() == {"boundary_mIoU_3px", "boundary_mIoU_5px", "boundary_mIoU"}
    assert len(list((tmp_path / "out/cityscapes_semantic").iterdir())) == 2 and not (tmp_path / "fast").exists()
    MetadataCatalog.remove(name)


class Recorder(DatasetEvaluator):
    def __init__(self, task):
        self.task = task

    def reset(self):
        self.seen = 0

    def process(self, inputs, outputs):
        self.seen += len(outputs)

    def evaluate(self):
        return {self.task: {"n": self.seen}}


def test_only_what_the_network_gives_is_scored():
    evaluator = EvaluatorPerOutput({"instances": Recorder("bbox"), "sem_seg": Recorder("sem_seg")})
    evaluator.reset()
    evaluator.process([{}], [{"instances": 1, "proposals": 2}])
    evaluator.process([{}], [{"instances": 1}])
    assert evaluator.evaluate() == {"bbox": {"n": 2}}
    evaluator.reset()
    evaluator.process([{}], [{"proposals": 2}])
    with pytest.raises(ValueError, match=r"gives \['proposals'\]; this data set scores \['instances', 'sem_seg'\]"):
        evaluator.evaluate()


def test_unknown_kind(dataset, tmp_path):
    for kind in ("keypoints_3d", None):
        with pytest.raises(ValueError, match=rf"evaluator_type {kind!r}; known are coco, coco_panoptic_seg, sem_seg"):
            build_evaluator(load_config(), dataset(kind), str(tmp_path))
