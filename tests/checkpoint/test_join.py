"""The heads of two networks with one backbone become one detector."""

import pytest
import torch

from fapn_d2.checkpoint.join import join_checkpoints

RPN = {"backbone.a": torch.tensor([1.0, 2.0]), "backbone.b": torch.tensor(3.0), "proposal_generator.w": torch.ones(2)}
DETECTOR = {"backbone.a": torch.tensor([1.0, 2.0]), "backbone.b": torch.tensor(3.0), "roi_heads.w": torch.zeros(3)}


def save(folder, **networks):
    for name, weights in networks.items():
        torch.save({"model": weights, "iteration": 7}, folder / f"{name}.pth")
    return [folder / f"{name}.pth" for name in networks]


def test_join(tmp_path):
    rpn, detector = save(tmp_path, rpn=RPN, detector=DETECTOR)
    join_checkpoints(rpn, detector, tmp_path / "joined.pth")
    found = torch.load(tmp_path / "joined.pth")
    assert found.keys() == {"model"}  # nothing of the trainings, which could be resumed by mistake
    expected = {**RPN, **DETECTOR}
    assert found["model"].keys() == expected.keys()
    assert all(torch.equal(found["model"][name], value) for name, value in expected.items())


def test_errors(tmp_path):
    moved = {**DETECTOR, "backbone.a": torch.tensor([1.0, 2.0000002])}
    rpn, detector, other, third = save(
        tmp_path, rpn=RPN, detector=DETECTOR, other=moved, less={**RPN, "backbone.c": torch.ones(1)}
    )
    with pytest.raises(ValueError, match=r"differ in 1 tensors \(backbone\.a\).*MODEL\.FREEZE_PARTS"):
        join_checkpoints(rpn, other, tmp_path / "joined.pth")
    with pytest.raises(ValueError, match=r"differ in 1 tensors \(backbone\.c\)"):
        join_checkpoints(third, detector, tmp_path / "joined.pth")
    with pytest.raises(ValueError, match=r"detector\.pth has no proposal_generator: its names are backbone\.a"):
        join_checkpoints(detector, rpn, tmp_path / "joined.pth")
    assert not (tmp_path / "joined.pth").exists()
