"""Proposal files: what is written is read, images that lack are named, pickles cannot run code."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.build import load_proposals_into_dataset
from detectron2.structures import BoxMode

from fapn_d2.data import build_test_loader, build_train_loader
from fapn_d2.data.proposals import ProposalFile, write_proposals

BOXES = [np.array([[0, 0, 10, 10], [1, 2, 30, 40.5]], np.float32), np.zeros((0, 4), np.float32)]
LOGITS = [np.array([-1.5, 2.0], np.float32), np.zeros(0, np.float32)]
HEADER = {"dataset": "toys", "checkpoint": "model.pth", "config": "abc"}


@pytest.fixture
def folder(tmp_path):
    write_proposals(tmp_path / "toys", HEADER, [7, "b"], zip(BOXES, LOGITS))
    return tmp_path / "toys"


def test_what_is_written_is_read_best_first(folder):
    file = ProposalFile(folder)
    boxes, logits = file.of(7)
    assert logits.tolist() == [2.0, -1.5] and boxes.tolist() == [[1, 2, 30, 40.5], [0, 0, 10, 10]]
    assert [array.shape for array in file.of("b")] == [(0, 4), (0,)]
    assert file.header == HEADER | {"version": 1, "num_images": 2, "num_proposals": 2}
    assert isinstance(file._boxes, np.memmap) and file.mode == BoxMode.XYXY_ABS
    assert sorted(p.name for p in folder.iterdir()) == [
        *("boxes.npy", "header.json", "ids.json", "logits.npy", "offsets.npy")
    ]
    assert not list(folder.parent.glob("*.tmp"))
    write_proposals(folder, HEADER, [8], [(BOXES[0], LOGITS[0])])  # replaces
    assert ProposalFile(folder).header["num_images"] == 1


def test_images_that_lack_are_named(folder):
    file = ProposalFile(folder)
    file.require(["7", "b"], "toys")
    message = r"lack 2 of the 3 images of others \(8, 9\)\. They were made for toys\. Write those of others by tools/"
    with pytest.raises(ValueError, match=message):
        file.require([7, 8, 9], "others")


def test_damaged_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there are no proposals in .*none: tools/extract"):
        ProposalFile(tmp_path / "none")
    np.save(folder / "logits.npy", np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="not complete or of another version; write them again"):
        ProposalFile(folder)
    (folder / "boxes.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="are damaged"):
        ProposalFile(folder)
    with pytest.raises(ValueError, match="there are 2 images and proposals of 1"):
        write_proposals(tmp_path / "a", HEADER, [1, 2], [(BOXES[0], LOGITS[0])])


def test_detectron2s_pickles(tmp_path):
    """The new names and the old ones, against Detectron2's reader."""
    rng = np.random.default_rng(0)
    boxes, logits = rng.uniform(0, 90, (3, 5, 4)).astype("float32"), rng.normal(0, 1, (3, 5)).astype("float32")
    content = {"indexes": [3, 1, 2], "boxes": list(boxes), "scores": list(logits), "bbox_mode": 1}
    path = tmp_path / "theirs.pkl"
    path.write_bytes(pickle.dumps(content))
    expected = load_proposals_into_dataset([{"image_id": 1}, {"image_id": 2}], str(path))
    file = ProposalFile(path)
    for record in expected:
        found = file.of(record["image_id"])
        assert np.array_equal(found[0], record["proposal_boxes"])
        assert np.array_equal(found[1], record["proposal_objectness_logits"])
        assert file.mode == record["proposal_bbox_mode"] == BoxMode.XYWH_ABS
    with pytest.raises(ValueError, match=r"lack 1 of the 1 images of toys \(9\)\. Write"):
        file.require([9], "toys")
    path.write_bytes(pickle.dumps({"ids": [1]}))
    with pytest.raises(ValueError, match="is not a proposal file of Detectron2: it lacks boxes, objectness_logits"):
        ProposalFile(path)
    path.write_bytes(pickle.dumps({"ids": [print]}))
    with pytest.raises(ValueError, match="refused because reading it could run code"):
        ProposalFile(path)


@pytest.fixture
def cfg(cfg, tmp_path, shapes):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("shapes_train",), ("shapes_val",)
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.INPUT.MIN_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TEST = 96
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_proposals_of_the_image(cfg, tmp_path, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    for name, key in (("shapes_train", "PROPOSAL_FILES_TRAIN"), ("shapes_val", "PROPOSAL_FILES_TEST")):
        ids = [record["image_id"] for record in DatasetCatalog.get(name)]
        boxes = [np.array([[0, 0, 10 + i, 10], [0, 0, 5, 5]]) for i in range(len(ids))]
        write_proposals(tmp_path / name, HEADER, ids[::-1], zip(boxes[::-1], [[0.0, 1.0]] * len(ids)))
        cfg.DATASETS[key] = (str(tmp_path / name),)
    cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST = 1
    first = DatasetCatalog.get("shapes_train")[0]["image_id"]
    scale = 96 / DatasetCatalog.get("shapes_train")[0]["height"]
    for sample in itertools.chain(*itertools.islice(build_train_loader(cfg), 3)):
        found = sample["proposals"].proposal_boxes.tensor
        assert found[0].tolist() == pytest.approx([0, 0, 5 * scale, 5 * scale], rel=0.05)  # the better one
        assert found[1, 2].item() == pytest.approx((10 + sample["image_id"] - first) * scale, rel=0.05)
    tested = [batch[0] for batch in build_test_loader(cfg, "shapes_val")]
    assert [len(sample["proposals"]) for sample in tested] == [1] * len(tested) and tested
    assert torch.equal(tested[0]["proposals"].objectness_logits, torch.tensor([1.0]))


def test_errors_of_loaders(cfg, folder):
    message = r"a path in DATASETS\.PROPOSAL_FILES_TRAIN for each data set .*\(shapes_train\).* has 0\. tools"
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg)
    cfg.DATASETS.PROPOSAL_FILES_TEST = (str(folder),)
    with pytest.raises(ValueError, match=r"lack \d of the \d images of shapes_val .*They were made for toys"):
        build_test_loader(cfg, "shapes_val")
