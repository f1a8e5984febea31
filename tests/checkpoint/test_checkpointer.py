"""Atomic saving, the way back to the last good checkpoint, and strictness of the three ways of loading."""

import errno
import logging
import os

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from fapn_d2.checkpoint.checkpointer import Checkpointer
from fapn_d2.config.loading import default_config


def network(classes: int = 3, *, names: tuple[str, ...] = ("neck", "head")) -> nn.Module:
    """A bottom-up network with statistics, and parts behind it."""
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.bottom_up = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    for name in names:
        model.add_module(name, nn.Linear(4, classes if name == "head" else 4))
    return model


class Counter:
    """A checkpointable like the trainer."""

    def __init__(self):
        self.iteration = -1

    def state_dict(self):
        return {"iteration": self.iteration}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]


def saved(folder, *iterations: int, model: nn.Module | None = None) -> nn.Module:
    model = model or network()
    counter = Counter()
    checkpointer = Checkpointer(model, str(folder), trainer=counter)
    for n, counter.iteration in enumerate(iterations):
        checkpointer.save(f"model_{counter.iteration:07d}", iteration=counter.iteration)
        os.utime(folder / f"model_{counter.iteration:07d}.pth", (n, n))
    return model


def resumed(folder, model: nn.Module | None = None) -> tuple[bool, int]:
    counter = Counter()
    return Checkpointer(model or network(), str(folder), trainer=counter).resume(), counter.iteration


def test_resume(tmp_path):
    assert resumed(tmp_path) == (False, -1)
    assert resumed(tmp_path / "absent") == (False, -1)
    model = saved(tmp_path, 9, 19)
    other = network()
    assert resumed(tmp_path, other) == (True, 19)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000009.pth", "model_0000019.pth"]


def test_detectron2_reads_what_is_saved(tmp_path):
    model, other = saved(tmp_path, 5), network()
    DetectionCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    assert torch.equal(other.head.weight, model.head.weight)


@pytest.mark.parametrize("damage", ["truncated", "empty", "no pointer", "empty pointer", "pointer to nothing"])
def test_falls_back_to_the_last_good_checkpoint(tmp_path, damage, caplog):
    saved(tmp_path, 9, 19)
    last = tmp_path / "model_0000019.pth"
    if damage == "truncated":
        os.truncate(last, os.path.getsize(last) // 2)
    elif damage == "empty":
        os.truncate(last, 0)
    elif damage == "no pointer":
        os.remove(tmp_path / "last_checkpoint")
    elif damage == "empty pointer":
        os.truncate(tmp_path / "last_checkpoint", 0)
    else:
        os.remove(last)
    expected = 19 if damage in ("no pointer", "empty pointer") else 9
    assert resumed(tmp_path) == (True, expected)
    assert any(record.levelno == logging.WARNING for record in caplog.records)
    if damage in ("truncated", "empty"):
        assert "skipping a checkpoint" in caplog.text and "model_0000019.pth is" in caplog.text


def test_a_flipped_bit_is_found(tmp_path):
    """Anywhere in the file: in weights, in the pickled structure, in the zip's own tables."""
    saved(tmp_path, 9, 19)
    last = tmp_path / "model_0000019.pth"
    good = last.read_bytes()
    place_of_weights = good.index(torch.load(last)["model"]["head.weight"].numpy().tobytes())
    places = [place_of_weights + 3, good.index(b"head.weight") + 2, good.index(b"head.bias") + 5]
    places += [int(n) for n in torch.randint(len(good), (40,))]
    found, expected = 0, network_values(good, tmp_path)
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << (place % 8)
        last.write_bytes(damaged)
        os.utime(last, (1, 1))
        model = network()
        iteration = resumed(tmp_path, model)[1]
        found += iteration == 9
        # What lies between the parts of the zip is not read; a flipped bit there changes nothing.
        assert iteration == 9 or all(torch.equal(model.state_dict()[k], v) for k, v in expected.items()), place
    assert found >= 3
    last.write_bytes(good[:place_of_weights] + bytes(16) + good[place_of_weights + 16 :])
    with pytest.raises(ValueError, match=r"model_0000019.pth is damaged: the checksum of \S+/data/\d+ in it is wrong"):
        Checkpointer(network()).load(str(last))


def network_values(content: bytes, folder) -> dict:
    (folder / "copy").write_bytes(content)
    return torch.load(folder / "copy")["model"]


@pytest.mark.parametrize("damage", ["binary pointer", "folder as pointer", "folder as checkpoint"])
def test_falls_back_over_what_is_no_file_of_ours(tmp_path, damage, caplog):
    model = saved(tmp_path, 9, 19)
    pointer = tmp_path / "last_checkpoint"
    if damage == "binary pointer":
        pointer.write_bytes(bytes(range(128, 256)))
    else:
        place = pointer if "pointer" in damage else tmp_path / "model_0000019.pth"
        place.unlink()
        place.mkdir()
    assert resumed(tmp_path) == (True, 9 if damage == "folder as checkpoint" else 19)
    Checkpointer(model, str(tmp_path), trainer=Counter()).save("model_0000029")
    assert (tmp_path / "model_0000029.pth").exists()


def test_only_the_newest_are_kept(tmp_path):
    cfg = default_config()
    cfg.merge_from_list(["SOLVER.CHECKPOINT_KEEP", 2])
    checkpointer = Checkpointer(network(), str(tmp_path), cfg=cfg)
    checkpointer.save("model_best", is_last=False)
    for iteration in (99, 4, 9, 14):  # 99 is of an earlier run
        checkpointer.save(f"model_{iteration:07d}")
    checkpointer.save("model_final")
    names = ["last_checkpoint", "model_0000009.pth", "model_0000014.pth", "model_best.pth", "model_final.pth"]
    assert sorted(os.listdir(tmp_path)) == names
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_weights_alone_are_not_resumed(tmp_path, caplog):
    saved(tmp_path, 9)
    torch.save({"model": network().state_dict()}, tmp_path / "newer.pth")
    os.remove(tmp_path / "last_checkpoint")
    assert resumed(tmp_path) == (True, 9)
    assert "newer.pth: it contains weights but not the state of a training run" in caplog.text


def test_nothing_to_fall_back_to(tmp_path):
    saved(tmp_path, 9)
    os.truncate(tmp_path / "model_0000009.pth", 10)
    with pytest.raises(ValueError, match=r"none of the checkpoints in .* can be resumed; start anew"):
        resumed(tmp_path)


def test_resume_with_another_network(tmp_path):
    saved(tmp_path, 9)
    with pytest.raises(
        ValueError, match=r"head.weight is \(3, 4\) in the file and \(5, 4\).*config it was trained with"
    ):
        resumed(tmp_path, network(5))


def test_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    model = saved(tmp_path, 9)
    before = (tmp_path / "model_0000009.pth").read_bytes()

    def full(content, file):
        file.write(b"part of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    for name in ("model_0000019", "model_0000009"):  # a new file, and one that is replaced
        with pytest.raises(OSError, match=rf"cannot write .*{name}.pth \(.*No space left.*before is intact"):
            Checkpointer(model, str(tmp_path)).save(name)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000009.pth"]
    assert (tmp_path / "model_0000009.pth").read_bytes() == before
    assert resumed(tmp_path) == (True, 9)


def test_a_kill_before_the_rename_changes_nothing(tmp_path, monkeypatch):
    saved(tmp_path, 9)
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, 19)
    monkeypatch.undo()
    assert resumed(tmp_path) == (True, 9)


# ---- what evaluation asks of a file


def file_of(tmp_path, model: nn.Module, **more) -> str:
    torch.save({"model": model.state_dict(), **more}, tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


def test_evaluation_is_strict(tmp_path, caplog):
    path = file_of(tmp_path, network())
    Checkpointer(network()).load(path)
    with pytest.raises(
        ValueError,
        match=r"weights.pth does not fill the network: 2 weights are missing \(extra.weight, extra.bias\); "
        r"2 have another shape \(head.weight is \(3, 4\) in the file and \(5, 4\) in the network.*--allow-partial",
    ):
        Checkpointer(network(5, names=("neck", "head", "extra"))).load(path)
    partial = network(5, names=("neck", "head", "extra"))
    Checkpointer(partial, allow_partial=True).load(path)
    assert "continuing because of --allow-partial: " in caplog.text and "2 weights are missing" in caplog.text
    assert torch.equal(partial.neck.weight, torch.load(path)["model"]["neck.weight"])


def test_evaluation_without_weights():
    with pytest.raises(ValueError, match=r"no weights are given: set MODEL.WEIGHTS"):
        Checkpointer(network()).load("")
    assert Checkpointer(network(), allow_partial=True).load("") == {}


def test_surplus_weights_are_no_error_in_evaluation(tmp_path):
    Checkpointer(network()).load(file_of(tmp_path, network(names=("neck", "head", "auxiliary"))))


# ---- what training asks of a file


def test_tuning_on_other_classes(tmp_path, caplog):
    trained = network(3)
    path = file_of(tmp_path, trained)
    with pytest.raises(ValueError, match=r"(?s)2 weights .*\(3, 4\) in the file.*MODEL.WEIGHTS_SKIP \"\['head'\]\""):
        Checkpointer(network(5)).initialize(path)
    tuned = network(5)
    fresh = tuned.head.weight.clone()
    with caplog.at_level(logging.INFO):
        Checkpointer(tuned).initialize(path, skip=["head"])
    assert torch.equal(tuned.neck.weight, trained.neck.weight) and torch.equal(tuned.head.weight, fresh)
    assert "9 of 11 tensors come from" in caplog.text and "left out by MODEL.WEIGHTS_SKIP: head" in caplog.text
    with pytest.raises(ValueError, match=r"MODEL.WEIGHTS_SKIP names 'heads', which the network lacks; it has \['head'"):
        Checkpointer(network(5)).initialize(path, skip=["heads"])


def test_start_from_another_neck_is_logged(tmp_path, caplog):
    path = file_of(tmp_path, network(names=("fpn", "head")))
    with caplog.at_level(logging.INFO):
        Checkpointer(network()).initialize(path)
    assert (
        "these parts keep their initialisation: neck.bias, neck.weight; not used: fpn.weight, fpn.bias" in caplog.text
    )


def test_start_needs_the_whole_bottom_up(tmp_path):
    state = network().state_dict()
    without_statistics = {k: v for k, v in state.items() if "running" not in k and "tracked" not in k}
    torch.save({"model": without_statistics}, tmp_path / "w.pth")
    Checkpointer(network()).initialize(str(tmp_path / "w.pth"))
    without_statistics.pop("backbone.bottom_up.0.weight")
    torch.save({"model": without_statistics}, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"leaves 1 weights of the bottom-up network random: backbone.bottom_up.0.weight"
    ):
        Checkpointer(network()).initialize(str(tmp_path / "w.pth"))


def test_nothing_in_common(tmp_path):
    torch.save({"model": {"x.weight": torch.ones(1)}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"no weight in .*w.pth has a name of the network: .*; the file x.weight"):
        Checkpointer(network()).initialize(str(tmp_path / "w.pth"))


def test_names_matched_by_their_ends_report_shapes_too(tmp_path):
    zoo = {
        "0.weight": torch.ones(4, 3, 3, 3),
        "0.bias": torch.ones(4),
        "1.weight": torch.ones(4),
        "1.bias": torch.ones(4),
    }
    torch.save({"model": zoo, "matching_heuristics": True}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"bottom_up.0.weight is \(4, 3, 3, 3\) in the file and \(4, 3, 1, 1\)"):
        Checkpointer(network()).initialize(str(tmp_path / "w.pth"))


def test_an_address_without_a_network(monkeypatch):
    checkpointer = Checkpointer(torch.nn.Linear(1, 1))

    def offline(address):
        raise OSError("Name or service not known")

    monkeypatch.setattr(checkpointer.path_manager, "get_local_path", offline)
    message = r"detectron2://a/b.pkl cannot be downloaded \(OSError: Name or service.*MODEL.WEIGHTS to its path"
    with pytest.raises(FileNotFoundError, match=message):
        checkpointer.load("detectron2://a/b.pkl")
