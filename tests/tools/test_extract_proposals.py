"""tools/extract_proposals.py as users run it: proposals of the network, once, and Fast R-CNN trained on them."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from fapn_d2.config.loading import load_config
from fapn_d2.data import build_test_loader
from fapn_d2.data.proposals import ProposalFile
from fapn_d2.inference.proposals import parts_of
from fapn_d2.meta_arch.build import build_model

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("toy_rpn_train", "toy_rpn_val")
TOOL = ROOT / "tools" / "extract_proposals.py"
SMALL = """
MODEL:
  DEVICE: cpu
  WEIGHTS: ""
  BACKBONE: {FREEZE_AT: 0}
  RESNETS: {DEPTH: 18, NORM: GN, STEM_OUT_CHANNELS: 32, RES2_OUT_CHANNELS: 64}
  FPN: {OUT_CHANNELS: 16}
  ROI_BOX_HEAD: {FC_DIM: 16}
  ROI_HEADS: {BATCH_SIZE_PER_IMAGE: 8}
INPUT: {MIN_SIZE_TRAIN: [96], MAX_SIZE_TRAIN: 128, MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 128}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 2, BASE_LR: 0.0001, STEPS: []}
DATASETS: {TRAIN: [toy_rpn_train], TEST: [toy_rpn_val]}
SEED: 1
"""


@pytest.fixture
def configs(tmp_path, real_images, monkeypatch):
    """Paths of a small RPN and a small Fast R-CNN, and of weights of the first."""
    register(str(real_images))
    monkeypatch.delenv("FAPN_DEBUG", raising=False)
    paths = {}
    for name in ("rpn_R_50_FPN_40k", "fast_rcnn_R_50_FPN_80k"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"_BASE_: {ROOT / 'configs' / 'fpn' / name}.yaml\n{SMALL}")
        paths[name.split("_R_")[0]] = path
    torch.manual_seed(3)
    model = build_model(load_config(str(paths["rpn"])))
    torch.save({"model": model.state_dict()}, tmp_path / "rpn.pth")
    yield {**paths, "weights": tmp_path / "rpn.pth", "model": model.eval(), "images": str(real_images)}
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def register(images: str) -> None:
    """Four photographs, as a data set for training and as one for tests."""
    for name in NAMES:
        register_coco_instances(name, {}, f"{images}/instances.json", f"{images}/photographs")


def run(monkeypatch, tool, *words) -> int:
    monkeypatch.setattr(sys, "argv", [str(tool), *map(str, words)])
    try:
        runpy.run_path(str(tool), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def test_extract_train_score(configs, tmp_path, monkeypatch, capsys):
    common = ("--config-file", configs["rpn"], "--weights", configs["weights"], "--per-image", 30)
    folders = {}
    for name in ("toy_rpn_train", "toy_rpn_val"):
        folders[name] = tmp_path / "proposals" / name
        assert run(monkeypatch, TOOL, *common, "--dataset", name, "--output", folders[name]) == 0
    file = ProposalFile(folders["toy_rpn_val"])
    assert file.header["dataset"] == "toy_rpn_val" and file.header["checkpoint"] == str(configs["weights"])
    assert file.header["num_images"] == 4 and file.header["num_proposals"] <= 120
    assert not parts_of(folders["toy_rpn_val"]).exists()
    # what the network itself gives, in pixels of the original image
    cfg = load_config(str(configs["rpn"]), ["MODEL.RPN.POST_NMS_TOPK_TEST", 30])
    sample = next(iter(build_test_loader(cfg, "toy_rpn_val")))[0]
    configs["model"].proposal_generator.post_nms_topk[False] = 30
    with torch.no_grad():
        expected = configs["model"]([sample])[0]["proposals"]
    boxes, logits = file.of(sample["image_id"])
    np.testing.assert_allclose(boxes, expected.proposal_boxes.tensor.numpy(), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(logits, expected.objectness_logits.numpy(), rtol=1e-5, atol=1e-5)

    # complete: nothing is predicted again; other proposals are not overwritten
    before = (folders["toy_rpn_val"] / "header.json").stat().st_mtime_ns
    again = (*common, "--dataset", "toy_rpn_val", "--output", folders["toy_rpn_val"])
    assert run(monkeypatch, TOOL, *again) == 0
    assert (folders["toy_rpn_val"] / "header.json").stat().st_mtime_ns == before
    assert run(monkeypatch, TOOL, *again, "MODEL.RPN.NMS_THRESH", 0.5) == 2
    assert "holds other proposals (config differ)" in capsys.readouterr().err

    out = tmp_path / "out"
    code = run(
        *(monkeypatch, ROOT / "tools" / "train_net.py", "--config-file", configs["fast_rcnn"], "OUTPUT_DIR", out),
        *("DATASETS.PROPOSAL_FILES_TRAIN", (str(folders["toy_rpn_train"]),)),
        *("DATASETS.PROPOSAL_FILES_TEST", (str(folders["toy_rpn_val"]),)),
    )
    assert code == 0 and "bbox" in json.loads((out / "results.json").read_text())


def test_continues_with_two_processes(configs, tmp_path, monkeypatch):
    """One image is there from an earlier start; two processes predict the others."""
    from fapn_d2.engine.launching import launch
    from fapn_d2.inference import proposals as module

    cfg = load_config(str(configs["rpn"]), ["MODEL.WEIGHTS", str(configs["weights"])])
    whole = module.extract_proposals(cfg, "toy_rpn_val", tmp_path / "whole", per_image=20)
    predict = module.predict
    monkeypatch.setattr(module, "predict", lambda c, m, w, p, missing: predict(c, m, w, p, missing[:1]))
    with pytest.raises(ValueError, match="3 of 4 images have no prediction"):
        module.extract_proposals(cfg, "toy_rpn_val", tmp_path / "both", per_image=20)
    monkeypatch.undo()
    words = (configs["images"], str(configs["rpn"]), str(configs["weights"]), tmp_path / "both")
    launch(extract, processes=2, use_cuda=False, args=words)
    both = ProposalFile(tmp_path / "both")
    assert both.header == whole.header
    for record in DatasetCatalog.get("toy_rpn_val"):
        for found, expected in zip(both.of(record["image_id"]), whole.of(record["image_id"])):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def extract(images: str, config: str, weights: str, output: Path) -> None:
    from fapn_d2.inference.proposals import extract_proposals

    register(images)
    extract_proposals(load_config(config, ["MODEL.WEIGHTS", weights]), "toy_rpn_val", output, per_image=20)
