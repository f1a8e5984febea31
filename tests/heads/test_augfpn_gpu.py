"""AugFPN's detectors on a GPU: the CPU's losses, and half precision."""

import pytest
import torch

from ..toys.detectors import toy_detector, toy_inputs, train_step, without_gradient

DETECTORS = ["", "ConsistentRetinaNet", "ConsistentFCOS"]


def detector(device, one_stage):
    # All regions are taken, so that drawing some does not differ between devices.
    options = ["MODEL.DEVICE", device, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 4000]
    options += ["MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 4000]
    options += ["MODEL.RPN.POSITIVE_FRACTION", 1.0]
    return toy_detector(*options, *([] if one_stage else ["MODEL.MASK_ON", True]), one_stage=one_stage)


@pytest.mark.gpu
@pytest.mark.parametrize("one_stage", DETECTORS)
def test_losses_are_the_cpus(one_stage):
    on_cpu, on_gpu = detector("cpu", one_stage), detector("cuda", one_stage)
    on_gpu.load_state_dict(on_cpu.state_dict(), strict=True)
    inputs = toy_inputs(masks=None if one_stage else "bitmask")
    expected, _ = train_step(on_cpu, inputs)
    losses, _ = train_step(on_gpu, inputs)
    for name, value in expected.items():
        torch.testing.assert_close(
            losses[name].cpu(), value, rtol=1e-2, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )
    assert not without_gradient(on_gpu)


@pytest.mark.gpu
@pytest.mark.parametrize("one_stage", DETECTORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(one_stage, dtype):
    model = detector("cuda", one_stage)
    with torch.autocast("cuda", dtype=dtype):
        losses, _ = train_step(model, toy_inputs(masks=None if one_stage else "polygon"))
        with torch.no_grad():
            model.eval()(toy_inputs())
    assert all(value.isfinite() for value in losses.values())
    assert not without_gradient(model)
