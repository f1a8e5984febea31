"""Panoptic FPN's merge, loss weights, turns and groups of channels."""

import socket

import pytest
import torch
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import distributed, multiprocessing

from fapn_d2.data.checks import needed_labels
from fapn_d2.engine.parallel import distribute
from fapn_d2.meta_arch.panoptic_fpn import PanopticMerge

from ..toys.detectors import train_step, without_gradient
from ..toys.panoptic_fcn import panoptic_inputs
from ..toys.panoptic_fpn import toy_cfg, toy_network

COUNT = "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT"
SEMANTIC = "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT"
TURNS = ("MODEL.PANOPTIC_FPN.ALTERNATE", True)


def objects(*masks, size=(4, 8)):
    """Objects (score, class, rows, columns), each a rectangle."""
    found = Instances(size)
    found.scores = torch.tensor([score for score, *_ in masks])
    found.pred_classes = torch.tensor([number for _, number, *_ in masks])
    found.pred_masks = torch.zeros(len(masks), *size, dtype=torch.bool)
    for mask, (*_, rows, columns) in zip(found.pred_masks, masks):
        mask[rows, columns] = True
    return found


def test_a_merge_by_hand():
    found = objects(
        (0.6, 1, slice(0, 2), slice(0, 4)),  # 8 pixels, of which the better object covers 4: half, not more
        (0.9, 0, slice(0, 2), slice(2, 6)),
        (0.8, 2, slice(0, 2), slice(1, 6)),  # 10 pixels, 8 of them taken
        (0.4, 0, slice(2, 4), slice(0, 8)),  # below the least score
    )
    classes = torch.tensor([[3] * 8, [3] * 8, [0, 0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 0, 2, 2, 2]])
    ids, segments = PanopticMerge(stuff_area=4, dropped=(1,))(found, classes)
    expected = [[2, 2, 1, 1, 1, 1, 5, 5], [2, 2, 1, 1, 1, 1, 5, 5], [3, 3, 3, 3, 3, 0, 0, 4], [3, 3, 3, 3, 3, 4, 4, 4]]
    assert ids.tolist() == expected
    kinds = [(s["id"], s["isthing"], s["category_id"]) for s in segments]
    assert kinds == [(1, True, 0), (2, True, 1), (3, False, 0), (4, False, 2), (5, False, 3)]
    assert [s["area"] for s in segments[2:]] == [10, 4, 4]
    # A limit of 5 pixels leaves the two smaller regions void. Cityscapes' road, class 0, stays.
    ids, segments = PanopticMerge(stuff_area=5, dropped=(1,))(found, classes)
    assert [s["category_id"] for s in segments] == [0, 1, 0] and (ids == 0).sum() == 10
    # Each task alone.
    ids, segments = PanopticMerge(stuff_area=4)(found, None)
    assert [s["isthing"] for s in segments] == [True, True] and (ids == 0).sum() == 20
    ids, segments = PanopticMerge(stuff_area=4)(None, classes)
    assert [(s["category_id"], s["area"]) for s in segments] == [(2, 4), (3, 16)] and (ids == 0).sum() == 12


def test_merge_is_detectron2s_where_class_0_stands_for_things():
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        found = objects(*[(s, 0, slice(0, 1), slice(0, 1)) for s in torch.rand(6, generator=generator).tolist()])
        found.pred_masks = torch.rand(6, 4, 8, generator=generator) < 0.4
        classes = torch.randint(4, (4, 8), generator=generator)
        ids, segments = PanopticMerge(overlap=0.5, stuff_area=3, score=0.3)(found, classes)
        theirs, their_segments = combine_semantic_and_instance_outputs(found, classes, 0.5, 3, 0.3)
        assert torch.equal(ids, theirs) and segments == their_segments


def test_merge_errors():
    with pytest.raises(ValueError, match="neither objects nor a semantic map"):
        PanopticMerge()(None, None)
    with pytest.raises(ValueError, match=r"image of \(4, 8\) pixels, the semantic map has \(4, 4\)"):
        PanopticMerge()(objects((0.9, 0, slice(1), slice(1))), torch.zeros(4, 4, dtype=torch.long))


def test_parameters_losses_and_results_are_detectron2s():
    theirs = toy_network(SEMANTIC, 0.5, COUNT, 0.25, architecture="PanopticFPN")
    ours = toy_network(SEMANTIC, 0.5, COUNT, 0.25)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    inputs = panoptic_inputs((3, 0), labels=True)
    expected, _ = train_step(theirs, inputs)
    losses, _ = train_step(ours, inputs)
    expected["loss_cls"] *= 0.25  # the paper's lambda_i covers it; Detectron2's key does not
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in expected.items()}
    assert not without_gradient(ours)
    found, wanted = ours.eval()(inputs), theirs.eval()(inputs)
    for a, b in zip(found, wanted):
        assert torch.equal(a["sem_seg"], b["sem_seg"]) and torch.equal(a["instances"].scores, b["instances"].scores)
        assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0]) and a["panoptic_seg"][1] == b["panoptic_seg"][1]
    plain, _ = train_step(toy_network(SEMANTIC, 0.5), inputs)  # the same network without a weight on instances
    ratios = {name: round((losses[name] / plain[name]).item(), 5) for name in losses}
    one = {"loss_sem_seg": 1.0, "loss_rpn_cls": 1.0, "loss_rpn_loc": 1.0}
    assert ratios == one | dict.fromkeys(("loss_cls", "loss_box_reg", "loss_mask"), 0.25)


@pytest.mark.parametrize(
    ("options", "architecture", "outputs"),
    [
        ((SEMANTIC, 0.0), "GeneralizedRCNN", {"instances", "panoptic_seg"}),
        ((COUNT, 0.0), "SemanticSegmentor", {"sem_seg", "panoptic_seg"}),
    ],
)
def test_a_weight_of_0_is_the_network_of_the_other_task(options, architecture, outputs):
    ours, theirs = toy_network(*options), toy_network(architecture=architecture)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    inputs = panoptic_inputs()
    losses, expected = train_step(ours, inputs)[0], train_step(theirs, inputs)[0]
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in expected.items()}
    assert not without_gradient(ours)
    assert set(ours.eval()(inputs)[0]) == outputs


def moved(model, optimizer, inputs, iteration):
    """The parts of ``model`` whose parameters an iteration changes by a bit or more."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with EventStorage(iteration):
        losses = model(inputs)
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    parts = {"backbone": set(), "proposal_generator": set(), "roi_heads": set(), "sem_seg_head": set()}
    for name, p in model.named_parameters():
        parts[name.removeprefix("module.").split(".")[0]].add(not torch.equal(p, before[name]))
    assert all(len(found) == 1 for found in parts.values()), "all parameters of a part move, or none"
    return {part for part, found in parts.items() if found == {True}}, set(losses)


DETECTION = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
BOTH_TURNS = (
    ({"backbone", "proposal_generator", "roi_heads"}, DETECTION),
    ({"backbone", "sem_seg_head"}, {"loss_sem_seg"}),
)


def turns(model, inputs):
    # Momentum and weight decay would move a parameter whose gradient is zero.
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=0.1)
    for iteration in (0, 1, 2, 3, 7, 8):  # a resumed run may start anywhere
        assert moved(model, optimizer, inputs, iteration) == BOTH_TURNS[iteration % 2], iteration


def test_turns_move_the_parameters_of_one_branch():
    model = toy_network(*TURNS).train()
    semantic = []
    model.sem_seg_head.register_forward_hook(lambda *_: semantic.append(1))
    turns(model, panoptic_inputs())
    assert len(semantic) == 3  # not run out of turn
    assert set(model.eval()(panoptic_inputs())[0]) == {"instances", "sem_seg", "panoptic_seg"}


def _turns_of_a_process(rank, port):
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = distribute(toy_network(*TURNS).train())
    assert model.find_unused_parameters
    turns(model, panoptic_inputs((0, 2) if rank else (3, 1)))
    own = torch.cat([p.detach().flatten() for p in model.parameters()])
    gathered = [torch.empty_like(own) for _ in range(2)]
    distributed.all_gather(gathered, own)
    assert torch.equal(*gathered) and own.isfinite().all()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_turns_in_two_processes():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_turns_of_a_process, (port,), nprocs=2)


def test_groups_of_channels():
    model = toy_network("MODEL.PANOPTIC_FPN.INSTANCE_CHANNELS", [0, 32])
    assert model.proposal_generator.rpn_head.conv.weight.shape[:2] == (32, 32)
    assert model.roi_heads.box_head.fc1.weight.shape[1] == 32 * 49
    inputs = panoptic_inputs()
    before, _ = train_step(model, inputs)
    with torch.no_grad():  # the last half of the channels is of no consequence to instances
        for name, p in model.backbone.named_parameters():
            if "output" in name:
                p[32:] = 0
    after, _ = train_step(model, inputs)
    assert {name for name in before if before[name] != after[name]} == {"loss_sem_seg"}
    assert set(model.eval()(inputs)[0]) == {"instances", "sem_seg", "panoptic_seg"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((SEMANTIC, 0.0, COUNT, 0.0), "weights are at least 0, and one is above 0"),
        ((SEMANTIC, -1.0), "weights are at least 0, and one is above 0"),
        ((SEMANTIC, 0.0, *TURNS), "ALTERNATE needs two tasks"),
        (("MODEL.MASK_ON", False), "MODEL.MASK_ON is False"),
        (("MODEL.PANOPTIC_FPN.INSTANCE_CHANNELS", [0, 65]), r"INSTANCE_CHANNELS is \[0, 65\].*of the 64"),
        (("MODEL.PANOPTIC_FPN.COMBINE.DROPPED_CLASSES", [4]), r"DROPPED_CLASSES holds 4.*0\.\.3"),
    ],
)
def test_configs_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        toy_network(*options)


def test_an_image_without_labels_is_named():
    model = toy_network().train()
    inputs = panoptic_inputs()
    del inputs[1]["sem_seg"]
    inputs[1]["file_name"] = "a.png"
    with pytest.raises(ValueError, match=r"image a\.png has no 'sem_seg'"):
        model(inputs)


def test_labels_of_a_task_with_weight_0_are_not_needed():
    assert set(needed_labels(toy_cfg(SEMANTIC, 0.0))) == {"objects"}
    assert set(needed_labels(toy_cfg(COUNT, 0.0))) == {"regions"}
    assert set(needed_labels(toy_cfg())) == {"objects", "regions"}
