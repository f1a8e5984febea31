"""The table of a network's modules: numbers that add up, also of detectors, and the tool that prints it."""

import runpy
from pathlib import Path

import pytest

from fapn_d2.config.loading import load_config
from fapn_d2.reproduction.analysis import analyze

ROOT = Path(__file__).resolve().parents[2]
SFNET = str(ROOT / "configs" / "sfnet" / "semantic_R_18_SFNet_cityscapes.yaml")


def test_numbers_of_a_segmentor_add_up():
    analysis = analyze(load_config(SFNET), size=(360, 480))
    complexity = analysis.complexity
    assert analysis.parameters[""] == analysis.trainable == 13_320_588
    assert analysis.parameters["backbone"] + analysis.parameters["sem_seg_head"] == 13_320_588
    assert complexity.by_module["backbone"] + complexity.by_module["sem_seg_head"] == complexity.total
    lines = analysis.table(depth=1).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["backbone", "sem_seg_head", "all"]
    assert lines[4].split()[1:3] == ["13,320,588", f"{complexity.total / 1e9:.3f}"]
    assert lines[0].split()[-2:] == ["G", "activations"]
    assert lines[4].split()[3:] == [f"{complexity.activations / 1e9:.3f}"]
    activations = complexity.activations_by_module
    assert activations["backbone"] + activations["sem_seg_head"] == complexity.activations > 0
    assert lines[-1] == "13,320,588 parameters are trained, 12,869,715 are read in inference"
    assert "backbone.context.bottleneck" in analysis.table(depth=3)


def test_a_detector_runs_on_its_own_regions():
    options = {
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        "MODEL.FPN.OUT_CHANNELS": 16,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    }
    config = str(ROOT / "configs" / "fapn" / "faster_rcnn_R_50_FaPN_1x.yaml")
    cfg = load_config(config, [part for pair in options.items() for part in pair])
    analysis = analyze(cfg, size=(64, 96))
    assert cfg.MODEL.DEVICE == "cuda"  # the caller's config stays
    modules = analysis.complexity.by_module
    assert modules["backbone"] > 0 and modules["roi_heads.box_head"] > 0
    assert modules["proposal_generator"] == modules["proposal_generator.rpn_head"]
    assert analysis.trainable < analysis.parameters[""] == analysis.complexity.parameters  # the stem is frozen


def test_the_tool(capsys):
    main = runpy.run_path(str(ROOT / "tools" / "analyze_model.py"))["main"]
    main(["--config-file", SFNET, "--convention", "sfnet", "--depth", "1", "MODEL.NECK.ALIGN", "bilinear_corners"])
    assert "244.278" in capsys.readouterr().out  # facts: without alignment
    with pytest.raises(SystemExit) as stopped:
        main(["--config-file", SFNET, "--size", "0", "64"])
    assert stopped.value.code == 2
    assert "error: the image must have a positive height and width in pixels, got 0 x 64" in capsys.readouterr().err
