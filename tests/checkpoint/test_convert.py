"""Official checkpoints -> ours and back: recorded necks, a whole network, the report, and what is refused."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from fapn_d2.checkpoint.convert import KEY_MAPS, check_fits, convert_file, convert_state
from fapn_d2.config.loading import load_config
from tests.toys.pyramids import toy_pyramid

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "fapn" / "faster_rcnn_R_50_FaPN_1x.yaml")
# official name -> ours, one of each kind, as the authors' code names them
EXAMPLES = {
    "backbone.fan_align2.lateral_conv.conv_atten.weight": "backbone.fpn_lateral2.importance.weight",
    "backbone.fan_align3.lateral_conv.conv.weight": "backbone.fpn_lateral3.selection.weight",
    "backbone.fan_align4.offset.weight": "backbone.fpn_align4.offset_reduce.weight",
    "backbone.fan_align4.dcpack_L2.weight": "backbone.fpn_align4.deform_conv.weight",
    "backbone.fan_align4.dcpack_L2.conv_offset_mask.bias": "backbone.fpn_align4.offset_mask.bias",
    "backbone.fan_align5.bias": "backbone.fpn_lateral5.bias",
    "backbone.fpn_output2.bias": "backbone.fpn_output2.bias",
    "backbone.bottom_up.res2.0.conv1.weight": "backbone.bottom_up.res2.0.conv1.weight",
    "roi_heads.box_predictor.cls_score.weight": "roi_heads.box_predictor.cls_score.weight",
}
# shapes of the official neck of a ResNet-50, from the authors' code
OFFICIAL_NECK = {"fan_align5.weight": (256, 2048, 1, 1), "fan_align5.bias": (256,)}
for _level, _channels in ((2, 256), (3, 512), (4, 1024)):
    OFFICIAL_NECK |= {
        f"fan_align{_level}.lateral_conv.conv_atten.weight": (_channels, _channels, 1, 1),
        f"fan_align{_level}.lateral_conv.conv.weight": (256, _channels, 1, 1),
        f"fan_align{_level}.offset.weight": (256, 512, 1, 1),
        f"fan_align{_level}.dcpack_L2.weight": (256, 256, 3, 3),
        f"fan_align{_level}.dcpack_L2.bias": (256,),
        f"fan_align{_level}.dcpack_L2.conv_offset_mask.weight": (216, 256, 3, 3),
        f"fan_align{_level}.dcpack_L2.conv_offset_mask.bias": (216,),
        f"fpn_output{_level}.weight": (256, 256, 3, 3),
        f"fpn_output{_level}.bias": (256,),
    }


@pytest.fixture(scope="module")
def official_faster_rcnn():
    """A whole official state dict: the neck by the authors' names and shapes, the rest as Detectron2 names it."""
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        state = build_model(cfg).state_dict()
    host = {
        name: tuple(value.shape)
        for name, value in state.items()
        if not name.startswith("backbone.") or name.startswith("backbone.bottom_up.")
    }
    shapes = host | {f"backbone.{name}": shape for name, shape in OFFICIAL_NECK.items()}
    return {name: torch.full((1,), float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


def test_a_whole_network_fills_ours_and_returns(official_faster_rcnn):
    assert len(OFFICIAL_NECK) == 29
    there = convert_state(official_faster_rcnn, paper="fapn", to="ours")
    check_fits(there.weights, load_config(CONFIG))
    for official, ours in EXAMPLES.items():
        assert there.weights[ours].max() == official_faster_rcnn[official].max(), ours
    assert len(there.renamed) == 29 - 6 and not there.dropped and not there.rearranged
    back = convert_state(there.weights, paper="fapn", to="official")
    assert back.weights.keys() == official_faster_rcnn.keys()
    assert all(value is official_faster_rcnn[name] for name, value in back.weights.items())
    assert sorted(back.renamed) == sorted((new, old) for old, new in there.renamed)


def test_the_report_names_every_renamed_weight(official_faster_rcnn):
    lines = convert_state(official_faster_rcnn, paper="fapn", to="ours").report().splitlines()
    assert len(lines) == 23 + 1
    assert ["backbone.fan_align4.offset.weight", "->", "backbone.fpn_align4.offset_reduce.weight"] in [
        line.split() for line in lines
    ]
    assert lines[-1] == f"23 renamed, {len(official_faster_rcnn) - 23} unchanged, 0 dropped"


@pytest.mark.parametrize(("case", "norm"), [("small_gn_p6p7", "GN"), ("small_retina", "")])
def test_recorded_necks(reference, tmp_path, case, norm):
    """The arrays of the authors' neck, as a bare state dict, through a file."""
    with np.load(reference / "fapn" / f"{case}_state.npz") as arrays:
        official = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    torch.save(official, tmp_path / "official.pth")
    convert_file(str(tmp_path / "official.pth"), str(tmp_path / "ours.pth"), paper="fapn", to="ours")
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    features = ("res2", "res3", "res4", "res5")[0 if norm else 1 :]
    pyramid = toy_pyramid("build_retinanet_resnet_fapn_backbone", features=features, norm=norm)
    pyramid.load_state_dict(ours, strict=True)
    convert_file(str(tmp_path / "ours.pth"), str(tmp_path / "again.pth"), paper="fapn", to="official")
    again = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert again.keys() == official.keys()
    assert all(torch.equal(again[name], value) for name, value in official.items())


def test_prefix_old_names_and_constants(official_faster_rcnn):
    extra = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
        "roi_heads.mask_coarse_head.coarse_mask_fc1.weight": torch.zeros(2),
        "roi_heads.mask_coarse_head.prediction.bias": torch.zeros(3),
        "roi_heads.mask_point_head.fc1.weight": np.zeros(4, np.float32),
    }
    wrapped = {f"module.{name}": value for name, value in (official_faster_rcnn | extra).items()}
    got = convert_state(wrapped, paper="fapn", to="ours")
    assert set(got.dropped) == {"module.pixel_mean", "module.proposal_generator.anchor_generator.cell_anchors.0"}
    assert got.weights["roi_heads.mask_head.coarse_head.fc1.weight"].shape == (2,)
    assert got.weights["roi_heads.mask_head.coarse_head.prediction.bias"].shape == (3,)
    assert isinstance(got.weights["roi_heads.mask_head.point_head.fc1.weight"], torch.Tensor)
    assert not any("module." in name for name in got.weights)
    assert got.report().splitlines()[-1].endswith("0 unchanged, 2 dropped")


def test_the_neck_must_be_whole_and_official(official_faster_rcnn):
    def message(state, to="ours"):
        with pytest.raises(ValueError) as error:
            convert_state(state, paper="fapn", to=to)
        return str(error.value)

    ours = convert_state(official_faster_rcnn, paper="fapn", to="ours").weights
    assert "there is no official FaPN neck (fan_align5.weight, ...) in " in message(ours)
    assert "there is no pyramid (fpn_lateral5.weight, ...) in a" in message({"a": torch.zeros(1)}, "official")
    lacking = {k: v for k, v in official_faster_rcnn.items() if k != "backbone.fan_align3.dcpack_L2.bias"}
    assert "its level 3 lacks align.deform_conv.bias" in message(lacking)
    more = official_faster_rcnn | {"backbone.fan_align3.gate.weight": torch.zeros(1)}
    assert "its level 3 has besides lateral.gate.weight" in message(more)
    fpn = toy_pyramid("build_pyramid_backbone").state_dict()
    assert "its level 2 lacks align.deform_conv.bias, " in message(fpn, "official")
    concat = toy_pyramid("build_resnet_fapn_backbone", FUSE="concat").state_dict()
    assert "its level 2 has besides fuse.reduce.weight" in message(concat, "official")
    twice = official_faster_rcnn | {"module.backbone.fan_align5.bias": torch.zeros(256)}
    assert "would both become backbone.fan_align5.bias" in message(twice)
    with pytest.raises(ValueError, match=r"no converter for 'fpan'; there is for .*fapn"):
        convert_state(ours, paper="fpan", to="ours")
    with pytest.raises(ValueError, match="converted to ours or official, not to 'theirs'"):
        convert_state(ours, paper="fapn", to="theirs")


def test_the_network_must_be_filled(official_faster_rcnn):
    weights = dict(convert_state(official_faster_rcnn, paper="fapn", to="ours").weights)
    cfg = load_config(CONFIG)
    weights["extra"] = weights.pop("backbone.fpn_output2.bias")
    weights["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(21)
    with pytest.raises(ValueError) as error:
        check_fits(weights, cfg)
    assert "1 missing: backbone.fpn_output2.bias; 1 not in the network: extra; 1 of another shape: " in str(error.value)
    assert "roi_heads.box_predictor.cls_score.bias ((21,), in the network (81,))" in str(error.value)


class Malicious:
    def __reduce__(self):
        return print, ("this file runs code",)


def test_files_that_are_refused(tmp_path, capsys):
    source, target = str(tmp_path / "in.pth"), str(tmp_path / "out.pth")
    with pytest.raises(FileNotFoundError, match=r"in\.pth does not exist"):
        convert_file(source, target, paper="fapn", to="ours")
    torch.save({"model": {"fan_align5.weight": torch.zeros(1)}, "extra": Malicious()}, source)
    with pytest.raises(ValueError, match="is refused because reading it could run code"):
        convert_file(source, target, paper="fapn", to="ours")
    assert "this file runs code" not in capsys.readouterr().out
    Path(target).touch()
    with pytest.raises(ValueError, match=r"out\.pth exists already"):
        convert_file(source, target, paper="fapn", to="ours")
    with pytest.raises(ValueError, match=r"out\.onnx must end with \.pth"):
        convert_file(source, str(tmp_path / "out.onnx"), paper="fapn", to="ours")
    assert Path(target).stat().st_size == 0 and not list(tmp_path.glob("*.tmp"))


ROUND_TRIPS = {
    "fapn": "fapn/pointrend_semantic_R_50_FaPN_cityscapes",
    "sfnet": "sfnet/semantic_DF2_SFNet_sfsegnets",
    "sfnet-df1": "sfnet/semantic_DF1_SFNet_sfsegnets",
    "sfnet-df2": "sfnet/semantic_DF2_SFNet_sfsegnets",
    "augfpn": "augfpn/mask_rcnn_R_50_AugFPN_1x",
    "panopticfcn": "fapn/panopticfcn_R_50_FaPN_1x",
    "maskformer": "fapn/mask_former_R_50_FaPN_ade20k",
}


@pytest.mark.parametrize("paper", KEY_MAPS)
def test_whole_networks_of_every_paper_go_there_and_back(paper):
    cfg = load_config(str(ROOT / "configs" / f"{ROUND_TRIPS[paper]}.yaml"), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build_model(cfg).state_dict().items()}
    state = {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items(), start=1)}
    there = convert_state(state, paper=paper, to="official")
    back = convert_state(there.weights, paper=paper, to="ours")
    check_fits(back.weights, cfg)
    assert all(torch.equal(value, state[name]) for name, value in back.weights.items())
    # mmdetection's networks of 2019 have no counters of batches
    assert set(state) - set(back.weights) == set(there.dropped)
    assert all(name.endswith("num_batches_tracked") for name in there.dropped)
    with pytest.raises(ValueError):
        convert_state({"nothing.of.the.kind": torch.zeros(1)}, paper=paper, to="ours")


def test_moved_values_are_reported():
    """AugFPN's official detectors have the background first: rows move, and background deltas are dropped."""
    official = {"bbox_head.fc_cls.bias": torch.arange(4.0), "bbox_head.fc_reg.bias": torch.arange(16.0)}
    got = convert_state(official, paper="augfpn", to="ours")
    assert got.weights["roi_heads.box_predictor.cls_score.bias"].tolist() == [1.0, 2.0, 3.0, 0.0]
    assert got.rearranged == ["roi_heads.box_predictor.cls_score.bias", "roi_heads.box_predictor.bbox_pred.bias"]
    assert got.report().splitlines()[0].endswith("-> roi_heads.box_predictor.cls_score.bias (rearranged)")


def test_the_tool(tmp_path, monkeypatch, capsys):
    """From the command line: the report, the file, and an error without a traceback."""
    monkeypatch.chdir(tmp_path)
    pyramid = toy_pyramid("build_resnet_fapn_backbone")
    torch.save({"model": pyramid.state_dict(), "iteration": 7}, "ours.pth")
    main = runpy.run_path(str(ROOT / "tools" / "convert_checkpoint.py"))["main"]
    main(["ours.pth", "official.pth", "--to", "official"])
    printed = capsys.readouterr().out
    assert "fpn_lateral2.importance.weight" in printed and "23 renamed, 6 unchanged, 0 dropped" in printed
    assert "fan_align2.lateral_conv.conv_atten.weight" in torch.load("official.pth", weights_only=True)["model"]
    for options, message in (
        (["--config-file", CONFIG], "error: the weights do not fit the network of the config"),
        (["--opts", "SEED", "1"], "error: --opts changes a config; name it by --config-file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["official.pth", "again.pth", *options])
        assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not Path("again.pth").exists()
    main(["official.pth", "again.pth", "--quiet"])
    assert capsys.readouterr().out.splitlines() == ["23 renamed, 6 unchanged, 0 dropped", "again.pth is written"]
