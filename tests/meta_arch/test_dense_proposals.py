"""Proposals from dense detections against a slow, plain statement of the rule."""

import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from torchvision.ops import box_iou

from fapn_d2.meta_arch.dense_proposals import ProposalLimits, _best_after_nms, dense_proposals

SIZE = (60, 80)
TRANSFORM = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))


def predictions(anchors=(40, 12), classes=3, images=2):
    levels = []
    for count in anchors:
        corner = torch.rand(count, 2) * 60
        boxes = Boxes(torch.cat([corner, corner + 5 + 25 * torch.rand(count, 2)], dim=1))
        draws = (torch.randn(images, count, classes), torch.randn(images, count, 4) / 5, torch.randn(images, count, 1))
        levels.append((boxes, *draws))
    return [list(column) for column in zip(*levels)]


def slow(anchors, logits, deltas, centerness, image, limits):
    """(box, rank) best first: the same rule, anchor by anchor, box by box."""
    found = []
    for level, boxes in enumerate(anchors):
        scores = logits[level][image].sigmoid()
        factor = centerness[level][image].sigmoid() if centerness else torch.ones(len(boxes), 1)
        best = sorted(range(len(boxes)), key=lambda a: -float((scores[a] * factor[a]).max()))[: limits.pre_nms_topk]
        for a in best:
            box = TRANSFORM.apply_deltas(deltas[level][image][a : a + 1], boxes.tensor[a : a + 1])[0]
            box = torch.stack([box[0].clamp(0, 80), box[1].clamp(0, 60), box[2].clamp(0, 80), box[3].clamp(0, 60)])
            for k, score in enumerate(scores[a].tolist()):
                if score > limits.score_thresh and (box[2:] > box[:2]).all():
                    found.append((score * float(factor[a]), k, box))
    kept = []
    for rank, k, box in sorted(found, key=lambda x: -x[0]):
        rivals = [other for _, j, other in kept if j == k]
        if not rivals or box_iou(box[None], torch.stack(rivals)).max() <= limits.nms_thresh:
            kept.append((rank, k, box))
    return [(box, rank) for rank, _, box in kept[: limits.post_nms_topk]]


@pytest.mark.parametrize("with_centerness", [False, True])
@pytest.mark.parametrize("limits", [ProposalLimits(20, 0.3, 0.5, 30), ProposalLimits(5, 0.01, 0.7, 1000)])
def test_the_rule(with_centerness, limits):
    anchors, logits, deltas, centerness = predictions()
    centerness = centerness if with_centerness else None
    got = dense_proposals(
        anchors, logits, deltas, centerness, transform=TRANSFORM, image_sizes=[SIZE] * 2, limits=limits
    )
    for i in range(2):
        expected = slow(anchors, logits, deltas, centerness, i, limits)
        assert len(got[i]) == len(expected) > 5
        torch.testing.assert_close(got[i].proposal_boxes.tensor, torch.stack([box for box, _ in expected]))
        torch.testing.assert_close(got[i].objectness_logits.sigmoid(), torch.tensor([rank for _, rank in expected]))


def test_suppression_in_steps_is_suppression_at_once():
    """Boxes so close that the first steps leave too few."""
    corner = 3 * torch.rand(3000, 2)
    boxes = torch.cat([corner, corner + 40], dim=1)
    boxes[1500:, 2:] += 30 * torch.rand(1500, 2)
    ranks = torch.rand(3000) / 2
    ranks[:1500] += 0.5
    labels = torch.randint(2, (3000,))
    for topk in (3, 20, 3000):
        got = _best_after_nms(boxes, ranks, labels, ProposalLimits(nms_thresh=0.6, post_nms_topk=topk))
        assert torch.equal(got, batched_nms(boxes, ranks, labels, 0.6)[:topk])


def test_nothing_detected():
    anchors, logits, deltas, _ = predictions()
    logits = [x - 100 for x in logits]
    options = dict(transform=TRANSFORM, image_sizes=[SIZE] * 2, limits=ProposalLimits())
    got = dense_proposals(anchors, logits, deltas, None, **options)
    assert [len(x) for x in got] == [0, 0] and got[0].proposal_boxes.tensor.shape == (0, 4)


def test_proposals_are_detached():
    anchors, logits, deltas, _ = predictions()
    deltas = [x.requires_grad_() for x in deltas]
    options = dict(transform=TRANSFORM, image_sizes=[SIZE] * 2, limits=ProposalLimits())
    assert not dense_proposals(anchors, logits, deltas, None, **options)[0].proposal_boxes.tensor.requires_grad
