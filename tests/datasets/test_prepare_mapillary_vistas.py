"""Mapillary Vistas: downloads of both versions, and what is wrong with others."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fapn_d2.config.loading import load_config
from fapn_d2.data import check_dataset
from fapn_d2.data.datasets.mapillary import COLORS, label_folder
from fapn_d2.data.reading import read_labels
from fapn_d2.reproduction.ledger import CONFIGS
from tests.datasets.programs import run

CONFIG = str(CONFIGS / "sfnet" / "semantic_R_18_SFNet_mapillary.yaml")


def write_names(path, names):
    path.write_text(json.dumps({"labels": [{"name": name, "evaluate": True} for name in names]}))


def palette_image(labels):
    """As released: indices with the colours of the classes."""
    image = Image.fromarray(labels).convert("P")
    image.putpalette([part for color in (*COLORS.values(), (0, 0, 0)) for part in color])
    return image


@pytest.fixture(params=["1.2", "2.0"])
def download(request, tmp_path):
    root = tmp_path / "mapillary_vistas"
    root.mkdir()
    newer = request.param == "2.0"
    names = [*COLORS, "void--unlabeled"]
    write_names(root / ("config_v1.2.json" if newer else "config.json"), names)
    for number, split in enumerate(("training", "validation")):
        labels = np.random.default_rng(number).integers(0, 66, (6, 8)).astype(np.uint8)
        labels[0, :3] = 0, 64, 65
        folders = {f"{split}/images": None, f"{split}/v1.2/labels" if newer else f"{split}/labels": labels}
        if newer:
            folders[f"{split}/v2.0/labels"] = np.full((6, 8), 123, np.uint8)
        for folder, content in folders.items():
            (root / folder).mkdir(parents=True)
            for stem in ("a_1", "b-2"):
                if content is None:
                    Image.new("RGB", (8, 6)).save(root / folder / f"{stem}.jpg")
                else:
                    palette_image(content).save(root / folder / f"{stem}.png")
    return root


def test_labels_are_used_as_they_are(download, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(download.parent))
    before = sorted(download.rglob("*"))
    run("prepare_mapillary_vistas", download)
    assert "2 images for training (the release has 18000), 2 images for validation" in capsys.readouterr().out
    assert sorted(download.rglob("*")) == before
    cfg = load_config(CONFIG)
    for number, name in enumerate((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        check_dataset(cfg, name)
        metadata = MetadataCatalog.get(name)
        assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == 65
        assert metadata.stuff_classes[13] == "construction--flat--road" and metadata.stuff_colors[13] == [128, 64, 128]
        first, second = DatasetCatalog.get(name)
        assert first["file_name"].endswith("images/a_1.jpg") and second["sem_seg_file_name"].endswith("b-2.png")
        expected = np.random.default_rng(number).integers(0, 66, (6, 8))
        expected[0, :3] = 0, 64, 65
        assert (read_labels(first["sem_seg_file_name"]) == expected).all()  # indices, not the brightness of colours


def test_half_a_download(download, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(download.parent))
    (download / "validation/images/a_1.jpg").unlink()
    words = r"1 of 2 labels in .* have no image \(a_1\).*labels are those of version 1\.2"
    with pytest.raises(SystemExit, match=words):
        run("prepare_mapillary_vistas", download)
    with pytest.raises(FileNotFoundError, match=rf"data set mapillary_vistas_sem_seg_val: {words}"):
        check_dataset(load_config(CONFIG), "mapillary_vistas_sem_seg_val")


def test_wrong_labels(download):
    label = label_folder(download, "validation") / "a_1.png"
    Image.new("L", (8, 6), 70).save(label)
    with pytest.raises(SystemExit, match=r"a_1\.png holds \[70\]; allowed are 0\.\.64 and 65\. Unpack them again"):
        run("prepare_mapillary_vistas", download)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["animal--bird", "animal--cat"], "class 1 is 'animal--cat', in version 1.2 it is 'animal--ground-animal'"),
        (["animal--bird"], "has 1 classes, version 1.2 65 and one for what is unlabelled"),
    ],
)
def test_other_classes(tmp_path, names, message):
    write_names(tmp_path / "config.json", names)
    with pytest.raises(SystemExit, match=message):
        run("prepare_mapillary_vistas", tmp_path)


def test_no_list_of_classes(tmp_path):
    with pytest.raises(SystemExit, match=r"neither config_v1\.2\.json nor config\.json is in"):
        run("prepare_mapillary_vistas", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"config\.json is not a list of classes: KeyError: 'labels'"):
        run("prepare_mapillary_vistas", tmp_path)
