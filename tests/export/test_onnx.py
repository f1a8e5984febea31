"""Exported networks against PyTorch, at sizes they were not traced at; files that differ are refused."""

import copy
import functools
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from fapn_d2.config.hashing import config_hash
from fapn_d2.config.loading import load_config
from fapn_d2.export import onnx as onnx_export
from fapn_d2.export import onnx_check
from fapn_d2.export.onnx import export_onnx
from fapn_d2.inference.segmentor import ExportedSegmentor
from fapn_d2.inference.trained import load_trained
from fapn_d2.layers.feature_align import FeatureAlign
from fapn_d2.meta_arch.build import build_model
from tests.toys.training import toy_config

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[2]
FCN = "sfnet/semantic_R_18_FCN_cityscapes.yaml"
DF1 = "sfnet/semantic_DF1_SFNet_cityscapes.yaml"
SFNET = "sfnet/semantic_R_18_SFNet_camvid.yaml"
FAPN = "fapn/realtime_R_18_FaPN_cityscapes.yaml"
# FaPN in Detectron2's own segmentor, which pads images; bilinear upsampling
PADDED = "fapn/semantic_R_18_FaPN_camvid.yaml"
THIN = ["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32]
THIN_R18 = [*THIN, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.STEM_OUT_CHANNELS", 16]
TINY = [*THIN, "MODEL.NECK.BOTTOM_UP", "build_a_convolution_a_stage"]
FCN_KEYS = [*TINY, "MODEL.BACKBONE.NAME", "build_a_convolution_a_stage", "MODEL.FPN.IN_FEATURES", ["res5"]]


class AConvolutionAStage(Backbone):
    """Strides 4 to 32 by five convolutions: exporting takes seconds for every hundred layers."""

    def __init__(self, names):
        super().__init__()
        widths = {"res2": 12, "res3": 16, "res4": 20, "res5": 24}
        self._out_features = list(names)
        self._out_feature_channels = {name: widths[name] for name in names}
        self._out_feature_strides = {name: 2 ** int(name[-1]) for name in names}
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.stages = nn.ModuleDict()
        before = 8
        for name, width in widths.items():
            layers = [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            self.stages[name], before = nn.Sequential(*layers), width

    def forward(self, x):
        maps, x = {}, self.stem(x)
        for name, stage in self.stages.items():
            maps[name] = x = stage(x)
        return {name: maps[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_a_convolution_a_stage(cfg, input_shape):
    return AConvolutionAStage(cfg.MODEL.FPN.IN_FEATURES)


def config(name, opts):
    return load_config(str(ROOT / "configs" / name), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *opts])


def network(name, opts):
    """Its config and itself, with offsets that move samples and statistics that are not 0 and 1."""
    cfg = config(name, opts)
    model = build_model(cfg).eval()
    for module in model.modules():
        if isinstance(module, FeatureAlign):
            torch.nn.init.normal_(module.offset_mask.bias, std=1.5)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return cfg, model


def classifier():
    """The quickest network to export: it classifies one map."""
    return network(FCN, FCN_KEYS)


@functools.cache
def has_deform_conv():
    """Whether onnxruntime knows FaPN's operator; 1.23, the last for Python 3.10, does not."""
    shapes = {"x": (1, 1, 1, 1), "w": (1, 1, 1, 1), "offset": (1, 2, 1, 1), "y": (1, 1, 1, 1)}
    values = {n: onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes.items()}
    *inputs, output = values.values()
    node = onnx.helper.make_node("DeformConv", list(shapes)[:3], ["y"])
    graph = onnx.helper.make_graph([node], "deformable", inputs, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=10)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        assert "DeformConv" in str(error)
        return False
    return True


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {"image": images.numpy()}))))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "opts", "operators"),
    [
        pytest.param(SFNET, THIN_R18, {"GridSample": 3}, id="SFNet-R18"),
        pytest.param(DF1, THIN, {"GridSample": 2}, id="SFNet-DF1", marks=pytest.mark.slow),
        pytest.param(FAPN, TINY, {"DeformConv": 2}, id="FaPN-nearest"),
        pytest.param(PADDED, TINY, {"DeformConv": 3}, id="FaPN-bilinear-padded"),
    ],
)
def test_equal_to_pytorch_at_any_size(name, opts, operators, tmp_path):
    if "DeformConv" in operators and not has_deform_conv():
        pytest.skip(f"onnxruntime {onnxruntime.__version__} has no DeformConv")
    cfg, model = network(name, opts)
    export = export_onnx(model, cfg, tmp_path / "new" / "model.onnx")
    assert [c.size for c in export.comparisons] == [(1, 97, 131), (2, 64, 150), (1, 225, 161), (1, 128, 128)]
    assert all(c.difference < 1e-5 for c in export.comparisons)
    assert [p.name for p in export.path.parent.iterdir()] == ["model.onnx"]
    graph = onnx.load(export.path).graph
    for operator, number in operators.items():
        assert sum(node.op_type == operator for node in graph.node) == number
    images = torch.randint(0, 256, (2, 3, 77, 190)).float()
    expected = torch.stack([x["sem_seg"] for x in model([{"image": image} for image in images])])
    (got,) = run(export.path, images).values()
    assert expected.std() > 0
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_labels_uint8_and_metadata(tmp_path):
    cfg, model = classifier()
    cfg.MODEL.WEIGHTS = "somewhere/model_final.pth"
    export = export_onnx(model, cfg, tmp_path / "model.onnx", labels=True, uint8=True, size=(40, 70), opset=19)
    assert export.comparisons[0].size == (1, 40, 70) and all(c.labels_agree for c in export.comparisons)
    images = torch.randint(0, 256, (1, 3, 50, 51), dtype=torch.uint8)
    got = run(export.path, images)
    torch.testing.assert_close(got["labels"], got["logits"].argmax(dim=1))
    file = onnx.load(export.path)
    assert [d.dim_param or d.dim_value for d in file.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]
    assert file.opset_import[0].version == 19 and file.producer_name == "fapn_d2"
    facts = {p.key: p.value for p in file.metadata_props}
    assert facts["color_order"] == "RGB" and json.loads(facts["pixel_mean"]) == [123.675, 116.28, 103.53]
    assert "uint8, 0 to 255, RGB" in facts["input"] and "labels" in facts["output"]
    assert facts["config_hash"] == config_hash(cfg) and facts["weights"] == "model_final.pth"
    assert json.loads(facts["classes"])[0] == "road" and facts["num_classes"] == "19"
    assert "any height, width and batch" in export.text and "1 x 40 x 70" in export.text


def test_one_size_alone(tmp_path):
    cfg, model = network(SFNET, TINY)
    export = export_onnx(model, cfg, tmp_path / "model.onnx", static=True, size=(45, 83))
    assert [c.size for c in export.comparisons] == [(1, 45, 83)] * 3
    dims = onnx.load(export.path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [1, 3, 45, 83] and "one size" in export.text


@pytest.mark.parametrize("static", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_without_deform_conv(static, tmp_path):
    cfg, model = network(FAPN, TINY)
    before = [type(module) for module in model.modules()]
    export = export_onnx(model, cfg, tmp_path / "model.onnx", grid_sample=True, opset=18, static=static, size=(45, 70))
    operators = [node.op_type for node in onnx.load(export.path).graph.node]
    assert operators.count("GridSample") == 2 and "DeformConv" not in operators
    assert all(c.difference < 1e-5 for c in export.comparisons) and export.opset == 18
    assert [type(module) for module in model.modules()] == before
    # The operator is of opset 19.
    with pytest.raises(ValueError, match=r"(?s)not valid ONNX .* --grid-sample it is written without DeformConv"):
        export_onnx(model, cfg, tmp_path / "model.onnx", static=True, size=(64, 64), opset=18)


def test_a_runtime_that_lacks_an_operator_is_reported(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"DeformConv")
    with pytest.raises(ValueError, match=r"onnxruntime \S+ cannot load \S+x\.onnx, which is kept"):
        onnx_check.compare(torch.nn.Identity(), tmp_path / "x.onnx", [])
    assert "--grid-sample" in onnx_check.hint_about(RuntimeError("no implementation for DeformConv(19)"))
    assert onnx_check.hint_about(RuntimeError("no memory")) == ""


@pytest.mark.parametrize("damage", [1.02, float("nan")])
def test_a_file_that_differs_is_refused(damage, tmp_path, monkeypatch):
    cfg, model = classifier()

    def write_and_damage(exported, path, **options):
        write(exported, path, **options)
        file = onnx.load(path)
        weight = next(w for w in file.graph.initializer if w.name.endswith("predictor.weight"))
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * damage, weight.name))
        onnx.save(file, path)

    write = onnx_export._write
    monkeypatch.setattr(onnx_export, "_write", write_and_damage)
    (tmp_path / "model.onnx").write_text("an older file")
    with pytest.raises(
        ValueError, match=r"model\.mismatch\.onnx does not equal the network: .* more than 0\.0001 .* 97 x 131"
    ):
        export_onnx(model, cfg, tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.mismatch.onnx"]


def test_labels_may_differ_only_where_logits_are_equal():
    expected = torch.tensor([[1.0, 5.0], [1.00001, 4.0]]).view(1, 2, 1, 2)
    agree = onnx_check._labels_agree
    scale = torch.tensor(5.0)
    assert agree(torch.tensor([[[0, 0]]]), expected, scale) and agree(torch.tensor([[[1, 0]]]), expected, scale)
    assert not agree(torch.tensor([[[1, 1]]]), expected, scale)
    assert not agree(torch.tensor([[[0]]]), expected, scale)
    assert onnx_check._difference(expected[..., :1], expected, scale) == float("inf")


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    cfg, model = classifier()
    out = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=r"model\.pth must end with \.onnx"):
        export_onnx(model, cfg, tmp_path / "model.pth")
    for opset in (17, 99):
        with pytest.raises(ValueError, match=rf"--opset {opset}: .* 18 and later, .* \d+ and earlier"):
            export_onnx(model, cfg, out, opset=opset)
    with pytest.raises(ValueError, match="--static needs --size"):
        export_onnx(model, cfg, out, static=True)
    with pytest.raises(ValueError, match=r"ToySegmentor cannot be exported: .* SemanticSegmentor or WholeImage"):
        ExportedSegmentor(build_model(toy_config(tmp_path)))
    monkeypatch.setattr(type(model.backbone), "padding_constraints", {"square_size": 64})
    with pytest.raises(ValueError, match="pads images to squares"):
        export_onnx(model, cfg, out)
    with pytest.raises(ValueError, match="the network has no weights: name a checkpoint"):
        load_trained(cfg, device="cpu")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r'needs the package onnxruntime: pip install "fapn_d2\[export\]"'):
        export_onnx(model, cfg, out)


def test_a_network_that_reads_values_is_reported(tmp_path, monkeypatch):
    cfg, model = classifier()
    head = type(model.sem_seg_head)
    layers = head.layers
    monkeypatch.setattr(head, "layers", lambda self, maps: layers(self, maps) * (1 if maps["res5"].sum() > 0 else 2))
    with pytest.raises(ValueError, match=r"cannot be exported with free sizes; --static .* PyTorch says"):
        export_onnx(model, cfg, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["export_onnx.py", *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(ROOT / "tools" / "export_onnx.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)


def test_the_command(tmp_path, monkeypatch, capsys):
    _, model = classifier()
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    arguments = ["--config-file", ROOT / "configs" / FCN]
    arguments += ["--weights", tmp_path / "weights.pth", "--output", tmp_path / "model.onnx"]
    keys = [*FCN_KEYS, "MODEL.WEIGHTS", ""]
    tool(monkeypatch, *arguments, "--static", "--size", "33x64", *keys)
    printed = capsys.readouterr().out
    assert "model.onnx: " in printed and printed.count("1 x 33 x 64") == 3
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(SystemExit) as stop:
        tool(monkeypatch, *arguments, "--static", "--size", "33x64", *keys)
    assert stop.value.code == 2 and "does not equal the network" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool(monkeypatch, *arguments, "--size", "33")
    assert "'33' is not HEIGHTxWIDTH" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        FAPN,
        DF1,
        "fapn/realtime_R_34_FaPN_cityscapes.yaml",
        "sfnet/semantic_R_18_SFNet_cityscapes.yaml",
        "sfnet/semantic_DF2_SFNet_cityscapes.yaml",
        "sfnet/semantic_ShuffleNetV2_SFNet_cityscapes.yaml",
        "sfnet/semantic_R_50_SFNet_cityscapes.yaml",
    ],
)
def test_networks_at_full_width(name, tmp_path):
    if name.startswith("fapn") and not has_deform_conv():
        pytest.skip(f"onnxruntime {onnxruntime.__version__} has no DeformConv")
    torch.manual_seed(0)
    cfg, model = network(name, [])
    export = export_onnx(model, cfg, tmp_path / "model.onnx", size=(256, 512))
    # Differences are fractions of the largest logit. With random weights the rounding of float32 in a deep network has
    # this size too: 7e-6 for ResNet-50, which is why the network's own rounding, against float64, is the measure.
    assert max(c.difference for c in export.comparisons) < max(1e-5, 4 * rounding(model))


def rounding(model):
    """The largest difference of a network's logits in float32 and float64, as a fraction of the largest logit."""
    image = torch.randint(0, 256, (3, 256, 512)).float()
    with torch.no_grad():
        single, double = (
            net([{"image": image.to(dtype), "height": 256, "width": 512}])[0]["sem_seg"]
            for net, dtype in ((model, torch.float32), (copy.deepcopy(model).double(), torch.float64))
        )
    return float((single - double).abs().max() / double.abs().max())
