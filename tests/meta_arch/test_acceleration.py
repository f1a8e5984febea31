"""Channels-last and compiled networks train and score as plain ones, with the same checkpoints."""

import pytest
import torch
from detectron2.layers import Conv2d
from torch._dynamo.utils import counters

from fapn_d2.config.loading import load_config
from fapn_d2.engine import Trainer, evaluate
from fapn_d2.meta_arch import acceleration
from fapn_d2.meta_arch.acceleration import accelerate, check_compiler, compile_in_place
from fapn_d2.meta_arch.build import build_model

from ..toys.training import losses_of, same_weights, toy_config

#: A small FaPN instead of the toy, which has no backbone.
NETWORK = (
    *("MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.BACKBONE.NAME", "build_resnet_fapn_backbone"),
    *("MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "GN"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.OUT_FEATURES", "['res3', 'res4', 'res5']"),
    *("MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p3', 'p4', 'p5']"),
    *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "8"),
    # Group normalisation of a single pixel would turn rounding errors into features.
    *("MODEL.SEM_SEG_HEAD.NORM", "", "SOLVER.BASE_LR", "0.001", "SOLVER.MAX_ITER", "3"),
)


@pytest.fixture(autouse=True)
def _quick_backend(monkeypatch):
    """The graphs of torch.compile, autograd's too, run as they are: a real compiler takes a minute."""
    real = compile_in_place
    monkeypatch.setattr(acceleration, "compile_in_place", lambda m, **options: real(m, **options, backend="aot_eager"))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def trained(folder, *opts) -> Trainer:
    trainer = Trainer(toy_config(folder, *NETWORK, *opts))
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


def test_training_and_checkpoints_are_those_of_the_plain_network(camvid, tmp_path):
    amp = ("SOLVER.AMP.ENABLED", "True", "DATASETS.TEST", "()")
    plain = trained(tmp_path / "plain", *amp)
    fast = trained(tmp_path / "fast", *amp, "MODEL.CHANNELS_LAST", "True", "MODEL.COMPILE", "dynamic")
    assert counters["stats"]["unique_graphs"] >= 1
    assert list(fast.model.state_dict()) == list(plain.model.state_dict())
    for a, b in zip(losses_of(fast).values(), losses_of(plain).values(), strict=True):
        assert a == pytest.approx(b, rel=0.01)  # bfloat16 has 8 bits, and layouts other orders of summation

    saved = torch.load(tmp_path / "fast" / "model_final.pth", weights_only=False)["model"]
    assert list(saved) == list(plain.model.state_dict())
    weights = ("MODEL.WEIGHTS", str(tmp_path / "fast" / "model_final.pth"))
    scores = evaluate(toy_config(tmp_path / "a", *NETWORK, *weights))["sem_seg"]
    compiled = toy_config(tmp_path / "b", *NETWORK, *weights, "MODEL.COMPILE", "dynamic")
    assert evaluate(compiled)["sem_seg"]["mIoU"] == pytest.approx(scores["mIoU"], rel=0.01)

    resumed = Trainer(toy_config(tmp_path / "fast", *NETWORK, *amp, "MODEL.COMPILE", "static"))
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3 and same_weights(resumed.model, fast.model)


def test_channels_last_reaches_every_map(tmp_path):
    cfg = toy_config(tmp_path, *NETWORK, "MODEL.CHANNELS_LAST", "True")
    model = accelerate(build_model(cfg), cfg).eval()
    layouts = {}

    def note(module, inputs, output):
        layouts[module] = output.is_contiguous(memory_format=torch.channels_last)

    convolutions = [m for m in model.modules() if isinstance(m, Conv2d)]
    for m in convolutions:
        m.register_forward_hook(note)
    with torch.no_grad():
        maps = model.backbone(torch.randn(1, 3, 64, 96))
    assert layouts and all(layouts.values())
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in maps.values())


@pytest.mark.parametrize("config", ["fapn/realtime_R_18_FaPN_camvid", "sfnet/semantic_DF2_SFNet_camvid"])
def test_bottom_up_and_neck_are_one_program_for_all_sizes(config):
    cfg = load_config(f"configs/{config}.yaml", ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    backbone = build_model(cfg).backbone.eval()
    compiled = torch.compile(backbone, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        # PyTorch's convolution changes its way at 20480 elements on the CPU: none of these maps are on both sides.
        for size in ((224, 288), (193, 300), (208, 320)):
            image = torch.randn(1, 3, *size)
            for a, b in zip(compiled(image).values(), backbone(image).values(), strict=True):
                torch.testing.assert_close(a, b)
    assert counters["stats"]["unique_graphs"] == 1


def test_choices_that_cannot_act_are_refused(tmp_path, monkeypatch):
    cfg = toy_config(tmp_path, "MODEL.COMPILE", "fast")
    with pytest.raises(ValueError, match=r"MODEL.COMPILE is 'fast'; allowed are 'none', 'dynamic', 'static'"):
        accelerate(build_model(cfg), cfg)
    cfg = toy_config(tmp_path, "MODEL.COMPILE", "static")
    with pytest.raises(ValueError, match="attribute `backbone` of a network, which ToySegmentor lacks"):
        accelerate(build_model(cfg), cfg)
    monkeypatch.setattr(acceleration.shutil, "which", lambda name: None)
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match=r"torch.compile for cpu needs a C\+\+ compiler: g\+\+, clang"):
        check_compiler(torch.device("cpu"))
    with pytest.raises(ValueError, match=r"torch.compile for cuda needs a C compiler: gcc, clang"):
        check_compiler(torch.device("cuda"))
