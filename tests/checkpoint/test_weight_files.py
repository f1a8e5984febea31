"""Safe reading: what is data is read, what could run code or is broken is refused by name."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch

from fapn_d2.checkpoint.weight_files import read_weights


class Harmful:
    """Would touch a file when a careless reader unpickles it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_training_checkpoint(tmp_path):
    trainer = {"iteration": 7, "base_lrs": [0.1], "hooks": collections.OrderedDict(best=np.float64(2.5))}
    torch.save({"model": {"a": torch.ones(2)}, "trainer": trainer, "iteration": 7}, tmp_path / "m.pth")
    content = read_weights(str(tmp_path / "m.pth"))
    assert content["trainer"] == trainer and content["iteration"] == 7
    assert torch.equal(content["model"]["a"], torch.ones(2))


def test_arrays_and_bare_state_dicts(tmp_path):
    state = {"a": np.arange(3, dtype=np.float32), "b": torch.zeros(1)}
    torch.save(state, tmp_path / "m.pth")
    content = read_weights(str(tmp_path / "m.pth"))
    np.testing.assert_array_equal(content["model"]["a"], [0, 1, 2])


@pytest.mark.parametrize("protocol", [2, 4])
def test_model_zoo_pickle(tmp_path, protocol):
    zoo = {"model": {"w": np.arange(4.0).reshape(2, 2)}, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(zoo, protocol=protocol))
    content = read_weights(str(tmp_path / "R-50.pkl"))
    np.testing.assert_array_equal(content["model"]["w"], [[0, 1], [2, 3]])
    assert content["matching_heuristics"] and content["__author__"] == "torchvision"


def test_caffe2_pickle(tmp_path):
    blobs = {"conv1_w": np.ones(1), "conv1_w_momentum": np.ones(1)}
    for name, content in (("detection.pkl", {"blobs": blobs}), ("imagenet.pkl", blobs)):
        (tmp_path / name).write_bytes(pickle.dumps(content))
        read = read_weights(str(tmp_path / name))
        assert list(read["model"]) == ["conv1_w"] and read["__author__"] == "Caffe2" and read["matching_heuristics"]


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"a": torch.ones(2)}, str(tmp_path / "m.safetensors"))
    assert torch.equal(read_weights(str(tmp_path / "m.safetensors"))["model"]["a"], torch.ones(2))
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad.safetensors is truncated or damaged"):
        read_weights(str(tmp_path / "bad.safetensors"))


@pytest.mark.parametrize("name", ["m.pkl", "m.pth"])
def test_code_is_refused_and_not_run(tmp_path, name):
    content = {
        "model": {"a": torch.ones(1) if name == "m.pth" else np.ones(1)},
        "__author__": Harmful(tmp_path / "ran"),
    }
    if name == "m.pth":
        torch.save(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=rf"{name} is refused because .*: it holds (_?io|builtins).open\. If"):
        read_weights(str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["m.pkl", "m.pth"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_files_are_named(tmp_path, name, kept):
    if name == "m.pth":
        torch.save({"model": {"a": torch.ones(1000)}}, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps({"model": {"a": np.ones(1000)}, "__author__": ""}))
    os.truncate(tmp_path / name, int(kept * os.path.getsize(tmp_path / name)))
    with pytest.raises(ValueError, match=rf"{name} is (truncated|damaged)"):
        read_weights(str(tmp_path / name))


def test_other_content(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(ValueError, match=r"list.pth contains a list, not a dict of weights"):
        read_weights(str(tmp_path / "list.pth"))
    with pytest.raises(ValueError, match=r"epoch.pth contains no weights: neither 'model' nor tensors, but epoch"):
        read_weights(str(tmp_path / "epoch.pth"))
    with pytest.raises(FileNotFoundError, match=r"weight file .*none.pth does not exist"):
        read_weights(str(tmp_path / "none.pth"))
