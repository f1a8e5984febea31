"""Inference against the official arrays; small maps, many candidates, and images in which nothing is found."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs

from fapn_d2.heads.panoptic_fcn.inference import PanopticFCNInference
from fapn_d2.heads.panoptic_fcn.losses import Predictions

from .networks import LEVELS, Arrays, Embeddings, assert_near, ours

SETTINGS = dict(
    thing_thresh=0.2,
    stuff_thresh=0.1,
    mask_thresh=0.4,
    score_thresh=0.05,
    least_similarity=0.9,
    max_objects=100,
    smoothing=(3, 3, 3, 5, 5),
)


@pytest.fixture
def official(reference):
    arrays, embeddings = Arrays(reference / "panoptic_fcn" / "inference.npz"), Embeddings().double()
    embeddings.load_state_dict(ours(arrays.below("sd")))
    maps = (arrays.levels(f"in/{name}") for name in ("center", "region", "kernel"))
    return arrays, Predictions(*maps, arrays["in/encode_feat"]), embeddings


def run(predictions, embeddings, input_size=(120, 150), output_size=(90, 113), image=0, **settings):
    inference = PanopticFCNInference(**SETTINGS | settings)
    with torch.no_grad():
        return inference(
            predictions,
            embeddings.thing_generator,
            embeddings.stuff_generator,
            image=image,
            input_size=input_size,
            output_size=output_size,
        )


def test_official_candidates(official):
    arrays, predictions, _ = official
    inference = PanopticFCNInference(**SETTINGS)
    for i, level in enumerate(LEVELS):
        kernels = predictions.kernels[i][0]
        found = {
            "thing": inference.things(predictions.centers[i][0], kernels, SETTINGS["smoothing"][i]),
            "stuff": inference.stuff(predictions.regions[i][0], kernels),
        }
        for kind, got in found.items():
            expected = arrays.below(f"out64/level/{level}")
            kernels_of_all = expected[f"{kind}_kernels"]
            assert_near(got.kernels, kernels_of_all.T if kind == "thing" else kernels_of_all)
            assert_near(got.scores, expected[f"{kind}_scores"])
            assert got.classes.tolist() == expected[f"{kind}_classes"].tolist()


def test_official_results(official):
    arrays, predictions, embeddings = official
    objects, sem_seg = run(predictions, embeddings)
    assert_near(sem_seg, arrays["out64/sem_seg"])
    shape = arrays["out/instances/masks_shape"].tolist()
    masks = np.unpackbits(arrays["out/instances/masks_packed"].numpy())[: np.prod(shape)].reshape(shape)
    assert np.array_equal(objects.pred_masks.numpy(), masks)
    assert objects.pred_classes.tolist() == arrays["out/instances/classes"].tolist()
    assert_near(objects.scores, arrays["out64/instances/scores"])
    assert_near(objects.pred_boxes.tensor, arrays["out64/instances/boxes"])
    panoptic, info = combine_semantic_and_instance_outputs(objects, sem_seg.argmax(dim=0), 0.5, 200, 0.2)
    assert torch.equal(panoptic.short(), arrays["out/panoptic_seg"])
    expected = json.loads(str(arrays.arrays["out/segments_info"]))
    assert [pytest.approx(segment) for segment in expected] == info


def test_images_of_a_batch_are_independent(official):
    _, predictions, embeddings = official
    twice = Predictions(
        *[[torch.cat([x.flip(3), x]) for x in maps] for maps in (predictions.centers, predictions.regions)],
        [torch.cat([x.flip(3), x]) for x in predictions.kernels],
        torch.cat([predictions.encoded.flip(3), predictions.encoded]),
    )
    alone, second = run(predictions, embeddings), run(twice, embeddings, image=1)
    assert torch.equal(alone[1], second[1]) and torch.equal(alone[0].pred_masks, second[0].pred_masks)
    assert not torch.equal(run(twice, embeddings, image=0)[1], second[1])


def test_nothing_found(official):
    _, predictions, embeddings = official
    objects, sem_seg = run(predictions, embeddings, thing_thresh=1.0, stuff_thresh=1.0)
    assert len(objects) == 0 and objects.pred_masks.shape == (0, 90, 113) and objects.pred_boxes.tensor.shape == (0, 4)
    assert sem_seg.shape == (6, 90, 113) and not sem_seg.any()
    panoptic, info = combine_semantic_and_instance_outputs(objects, sem_seg.argmax(dim=0), 0.5, 200, 0.2)
    assert not panoptic.any() and info == []


def test_limits(official):
    _, predictions, embeddings = official
    every = run(predictions, embeddings, thing_thresh=0.0, least_similarity=1.5, score_thresh=0.0)[0]
    assert len(every) > 6 and (every.scores.diff() <= 0).all()
    assert run(predictions, embeddings, max_objects=4)[0].scores.shape == (4,)
    assert len(run(predictions, embeddings, score_thresh=0.45)[0]) == 3
    many = run(predictions, embeddings, thing_thresh=0.0, least_similarity=1.5, score_thresh=0.0, max_objects=10**6)[0]
    assert len(many) > len(every)  # more than the 16 masks that are enlarged at a time
    torch.testing.assert_close(many.pred_masks[:1], every.pred_masks[:1])


def test_maps_of_one_cell():
    """A level of one cell offers one object, whatever the number of classes."""
    inference = PanopticFCNInference(**SETTINGS)
    logits = torch.tensor([3.0, 4.0, -4.0]).view(3, 1, 1)
    found = inference.things(logits, torch.ones(8, 1, 1), 5)
    assert found.classes.tolist() == [1] and found.kernels.shape == (1, 8)
    score = torch.tensor(4.0).sigmoid()
    assert found.scores.item() == pytest.approx((score * (1 + 1 / 25) / 2).item())
    stuff = inference.stuff(logits, torch.ones(8, 1, 1))
    assert stuff.classes.tolist() == [1] and stuff.kernels.tolist() == [[1.0] * 8]
