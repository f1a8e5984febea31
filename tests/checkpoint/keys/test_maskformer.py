"""Names of the official MaskFormer's weights and ours, both ways."""

import pytest
import torch

from fapn_d2.checkpoint.convert import convert_state
from tests.heads.mask_former.arrays import below, head_with_weights, load

HEADS = ("head_fpn", "head_fapn")


def official_network(reference, name="head_fapn"):
    """The head's weights, a Swin's and what the whole network saves besides."""
    meta, arrays = load(reference, name)
    state = {f"sem_seg_head.{key}": value for key, value in below(arrays, "sd/").items()}
    _, swin = load(reference, "swin")
    state |= {f"backbone.{key}": value for key, value in below(swin, "sd/").items()}
    state |= {
        key.replace("relative_position_bias_table", "relative_position_index"): index_by_loops(4)
        for key in list(state)
        if key.endswith("relative_position_bias_table")
    }
    weight = torch.ones(meta["num_classes"] + 1)
    weight[-1] = 0.1
    return state | {"criterion.empty_weight": weight}


def index_by_loops(window):
    places = [(y, x) for y in range(window) for x in range(window)]
    return torch.tensor(
        [[(y - v + window - 1) * (2 * window - 1) + x - u + window - 1 for v, u in places] for y, x in places]
    )


@pytest.mark.parametrize("name", HEADS)
def test_there_and_back(reference, name):
    official = official_network(reference, name)
    ours = convert_state(official, paper="maskformer", to="ours")
    back = convert_state(ours.weights, paper="maskformer", to="official")
    assert back.weights.keys() == official.keys()
    for key, value in official.items():
        assert torch.equal(back.weights[key], value), key
    # kept once, or made from the config or the window's size
    assert all("offset.norm" in n or "relative_position_index" in n or "empty_weight" in n for n in ours.dropped)
    assert not ours.rearranged and not back.rearranged and not back.dropped


@pytest.mark.parametrize("name", HEADS)
def test_our_head_has_exactly_these_names(reference, name):
    meta, arrays = load(reference, name)
    head = head_with_weights(meta, arrays)  # loads strictly
    state = {f"sem_seg_head.{key}": value for key, value in head.state_dict().items()}
    back = convert_state(state, paper="maskformer", to="official").weights
    assert back.keys() == {f"sem_seg_head.{key}" for key in below(arrays, "sd/")}


def test_first_version_of_the_head(reference):
    official = official_network(reference)
    first = {key.replace("pixel_decoder.", ""): value for key, value in official.items()}
    assert first.keys() != official.keys()
    ours = convert_state(first, paper="maskformer", to="ours").weights
    assert ours.keys() == convert_state(official, paper="maskformer", to="ours").weights.keys()


def test_a_shared_norm_with_two_values_is_refused(reference):
    official = official_network(reference)
    key = "sem_seg_head.pixel_decoder.align_2.offset.norm.weight"
    with pytest.raises(ValueError, match=r"align_2.offset.norm.weight and .*layer_2.norm.weight are one layer"):
        convert_state(official | {key: official[key] + 1}, paper="maskformer", to="ours")
    del official["sem_seg_head.pixel_decoder.layer_2.norm.weight"]
    with pytest.raises(ValueError, match=r"the file has .* without"):
        convert_state(official, paper="maskformer", to="ours")


def test_other_networks_are_refused():
    for to in ("ours", "official"):
        with pytest.raises(ValueError, match=r"not weights of a? ?MaskFormer"):
            convert_state({"backbone.res2.weight": torch.zeros(1)}, paper="maskformer", to=to)
    pyramid = {"sem_seg_head.predictor.x": torch.zeros(1), "sem_seg_head.pixel_decoder.pyramid.x": torch.zeros(1)}
    with pytest.raises(ValueError, match="no counterpart in the official MaskFormer"):
        convert_state(pyramid, paper="maskformer", to="official")
