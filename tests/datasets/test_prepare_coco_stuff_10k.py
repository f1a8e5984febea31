"""COCO-Stuff-10K from .mat files of both versions of the release to registered data sets."""

import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image
from scipy.io import savemat

from fapn_d2.data.datasets.coco_stuff import CLASSES, NEVER_LABELLED, labelled_ids
from tests.datasets.programs import run

SIZE = (6, 9)
NAMES = {
    "train": ["COCO_train2014_000000000077", "COCO_train2014_000000000064"],
    "test": ["COCO_train2014_000000000042"],
}


def cell(names) -> np.ndarray:
    array = np.empty((len(names), 1), object)
    array[:, 0] = names
    return array


@pytest.fixture
def download(tmp_path):
    """Three images; their ids 0..182 without those that were never labelled."""
    root = tmp_path / "coco_stuff_10k"
    for folder in ("images", "annotations", "imageLists"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = {}
    for split, names in NAMES.items():
        (root / "imageLists" / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))
        for name in names:
            Image.new("RGB", SIZE[::-1]).save(root / "images" / f"{name}.jpg")
            ids[name] = rng.choice([0, *labelled_ids()], SIZE)
            ids[name][0, :4] = 0, 1, 13, 182
            content = {"S": ids[name].astype(float), "names": cell(CLASSES[182]), "captions": cell(["A cat."])}
            savemat(root / "annotations" / f"{name}.mat", content)
    return root, ids


def save_matlab_73(path, ids: np.ndarray, names: int) -> None:
    """What MATLAB writes with -v7.3: its own header, then an HDF5 file with columns first and texts by reference."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        file["S"] = ids.T
        references = file.create_dataset("names", (names, 1), dtype=h5py.ref_dtype)
        references[0, 0] = file["S"].ref
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def labels(root, number, name) -> np.ndarray:
    return np.array(Image.open(root / f"labels_{number}" / f"{name}.png"))


def test_classes_are_cocos():
    names = {c["id"]: c["name"] for c in COCO_CATEGORIES if c["id"] <= 182}
    assert {i: CLASSES[182][i - 1] for i in names} == names
    things = [c["name"] for c in COCO_CATEGORIES if c["isthing"]]
    assert list(CLASSES[171][:80]) == things and len(CLASSES[171]) == 171 and len(CLASSES[182]) == 182
    assert CLASSES[171][80:] == CLASSES[182][91:] == tuple(sorted(CLASSES[182][91:]))
    assert {CLASSES[182][i - 1] for i in range(1, 92) if i not in names} == NEVER_LABELLED


def test_classes_of_every_pixel(download, capsys):
    root, ids = download
    run("prepare_coco_stuff_10k", root)
    said = capsys.readouterr().out
    assert "2 images for train (the release has 9000), 1 images for test (the release has 1000)" in said
    assert "with 171 and 182 classes" in said
    for name, truth in ids.items():
        assert labels(root, 182, name)[0, :4].tolist() == [255, 0, 12, 181]
        assert labels(root, 171, name)[0, :4].tolist() == [255, 0, 11, 170]
        for number in (171, 182):
            found = labels(root, number, name)
            assert found.dtype == np.uint8 and ((found == 255) == (truth == 0)).all()
            scored = truth > 0
            expected = np.array(CLASSES[182])[truth[scored] - 1]
            assert (np.array(CLASSES[number])[found[scored]] == expected).all()


def test_registered_data_sets(download, monkeypatch):
    root, _ = download
    run("prepare_coco_stuff_10k", root, "--classes", "171")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    for split, names in NAMES.items():
        records = DatasetCatalog.get(f"coco_stuff_10k_171_sem_seg_{split}")
        assert [r["file_name"] for r in records] == [f"{root}/images/{n}.jpg" for n in names]
        assert [r["sem_seg_file_name"] for r in records] == [f"{root}/labels_171/{n}.png" for n in names]
        metadata = MetadataCatalog.get(f"coco_stuff_10k_171_sem_seg_{split}")
        assert metadata.stuff_classes == list(CLASSES[171]) and metadata.ignore_label == 255
        assert metadata.evaluator_type == "sem_seg" and len(metadata.stuff_colors) == 171
    with pytest.raises(FileNotFoundError, match=r"labels_182 is absent.*made by datasets/prepare_coco_stuff_10k\.py"):
        DatasetCatalog.get("coco_stuff_10k_182_sem_seg_train")


def test_version_1_0_gives_the_same(download):
    root, ids = download
    old_number = {0: 1} | {coco: old for old, coco in enumerate(labelled_ids().tolist(), start=2)}
    for name, truth in ids.items():
        old = np.vectorize(old_number.get)(truth).astype(np.uint16)
        save_matlab_73(root / "annotations" / f"{name}.mat", old, names=172)
    run("prepare_coco_stuff_10k", root)
    for name, truth in ids.items():
        assert (labels(root, 182, name) == (truth - 1).astype(np.uint8)).all()


def test_h5py_is_asked_for(download, monkeypatch):
    root, ids = download
    save_matlab_73(root / "annotations" / f"{next(iter(ids))}.mat", np.ones((2, 2)), names=172)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SystemExit, match=r"000000000077\.mat cannot be converted: .*needs h5py: pip install h5py"):
        run("prepare_coco_stuff_10k", root)


@pytest.mark.parametrize(
    "content,message",
    [
        ({"S": np.full(SIZE, 12.0), "names": cell(CLASSES[182])}, "class 'street sign', which was never labelled"),
        (
            {"S": np.full(SIZE, 183.0), "names": cell(CLASSES[182])},
            r"labels 183\.\.183; with 182 names allowed are 0\.\.",
        ),
        ({"S": np.full(SIZE, 1.0), "names": cell(CLASSES[182][:5])}, "names 5 classes; version 1.1 names 182"),
        ({"names": cell(CLASSES[182])}, "KeyError: 'S'"),
        ({"S": np.full((6, 8), 1.0), "names": cell(CLASSES[182])}, r"\(6, 8\), its image .*77\.jpg \(6, 9\)"),
    ],
)
def test_what_does_not_fit_is_named(download, content, message):
    root, _ = download
    savemat(root / "annotations" / f"{NAMES['train'][0]}.mat", content)
    with pytest.raises(SystemExit, match=f"error: .*000000000077.*{message}"):
        run("prepare_coco_stuff_10k", root)


def test_lists_that_overlap(download):
    root, _ = download
    (root / "imageLists/test.txt").write_text(NAMES["train"][0])
    with pytest.raises(SystemExit, match=r"1 images are in train\.txt and in test\.txt \(COCO_train2014_000000000077"):
        run("prepare_coco_stuff_10k", root)
    (root / "imageLists/test.txt").unlink()
    with pytest.raises(SystemExit, match=r"test\.txt is absent\. Unpack cocostuff-10k-v1\.1\.zip there\."):
        run("prepare_coco_stuff_10k", root)
