"""An archive that is damaged in one way: the validator names this way, and nothing that is not there."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from fapn_d2.data.datasets.unlabelled import image_list
from fapn_d2.data.run_lengths import run_length_problem
from fapn_d2.evaluation.submission.checks.faults import Fault, Report
from fapn_d2.evaluation.submission.checks.submission import ImageList
from fapn_d2.evaluation.submission.tasks import TASKS, task_named
from fapn_d2.evaluation.submission.validator import validate

from . import toys


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Task -> (archive that is ready, name of its data set)."""
    pytest.importorskip("cityscapesscripts")
    import torch

    root = tmp_path_factory.mktemp("validator")
    coco, city = toys.make_coco(root / "coco"), toys.make_cityscapes(root)
    ade, vistas = toys.make_label_images(root / "ade", 150, 255), toys.make_label_images(root / "vistas", 65, 65)
    stuff = [{"sem_seg": torch.rand(92, r["height"], r["width"])} for r in image_list(coco)]
    for output in stuff:
        output["sem_seg"][91, 20:] += 5  # one large region
    made = {
        "coco-boxes": (coco, toys.coco_instances(coco)),
        "coco-masks": (coco, toys.coco_instances(coco)),
        "coco-panoptic": (coco, toys.coco_panoptic(coco)),
        "coco-stuff": (coco, stuff),
        "cityscapes-pixel": (city["sem_seg"], toys.city_scores(city["sem_seg"])),
        "cityscapes-instance": (city["instance_seg"], toys.city_instances(city["instance_seg"])),
        "cityscapes-panoptic": (city["panoptic"], toys.city_panoptic(city["panoptic"])),
        "ade20k": (ade, toys.region_scores(ade, 150)),
        "vistas": (vistas, toys.region_scores(vistas, 65)),
    }
    yield {task: (toys.write(task, name, outputs, root / task), name) for task, (name, outputs) in made.items()}
    for name in (coco, ade, vistas, *city.values()):
        toys.remove(name)


def said(report: Report) -> list[str]:
    """The sentences of problems, then those of remarks after "remark: "."""
    sentences = [group.fault.what for group in report.problems]
    return sentences + [f"remark: {group.fault.what}" for group in report.remarks]


@pytest.mark.parametrize("task", TASKS)
def test_what_is_written_is_ready(task, archives):
    archive, name = archives[task]
    report = toys.check(archive, task, name)
    assert report.ready, report.text()
    assert report.text().splitlines()[-1] == "ready for the server"
    # the toys' lists are shorter than the servers'
    allowed = ("remark: the server's split", "remark: images have no object", "remark: 0 occurs")
    assert all(sentence.startswith(allowed[:2]) for sentence in said(report)), said(report)


# ---- the zip ----


def copied(archive: Path, folder: Path, change: Callable[[zipfile.ZipFile], None]) -> Path:
    """A copy of a zip to which ``change`` adds something."""
    folder.mkdir(exist_ok=True)
    copy = folder / archive.name
    copy.write_bytes(archive.read_bytes())
    with zipfile.ZipFile(copy, "a") as file:
        change(file)
    return copy


def overwritten(content: bytes, what: bytes, by: bytes) -> bytes:
    assert content.count(what)
    return content.replace(what, by)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("../evil.png", "a path leads out of the archive"),
        ("/evil.png", "a path leads out of the archive"),
        ("folder\\evil.png", "a path has backslashes"),
        ("__MACOSX/._here_000000_000019_pred.png", "a __MACOSX folder or other files of the operating system"),
        (".DS_Store", "a __MACOSX folder or other files of the operating system"),
        ("here_000000_000019_pred.png", "a name is in the zip more than once"),
        ("here_000000_000019_other.png", "an image has several predictions"),
        ("mars_000000_000019_pred.png", "a file belongs to no image of the split"),
        ("notes.txt", "there are files that the server does not expect"),
    ],
)
def test_names_in_the_zip(name, sentence, archives, tmp_path):
    archive, dataset = archives["cityscapes-pixel"]
    content = zipfile.ZipFile(archive).read("here_000000_000019_pred.png")

    def change(file):
        info = zipfile.ZipInfo("x")
        info.filename = name  # the constructor would change backslashes
        file.writestr(info, content)

    report = toys.check(copied(archive, tmp_path / "a", change), "cityscapes-pixel", dataset)
    assert any(text.startswith(sentence) for text in said(report)), report.text()


def test_not_a_zip(archives, tmp_path):
    archive, dataset = archives["cityscapes-pixel"]
    for number, content in enumerate((b"text", archive.read_bytes()[:-200])):
        broken = tmp_path / f"{number}.zip"
        broken.write_bytes(content)
        assert said(toys.check(broken, "cityscapes-pixel", dataset)) == ["the file is not a zip, or is cut short"]
    with pytest.raises(FileNotFoundError, match=r"there is no archive .*gone\.zip"):
        toys.check(tmp_path / "gone.zip", "cityscapes-pixel", dataset)
    with pytest.raises(ValueError, match="cityscapes-pixel has no split 'train'; allowed are val, test"):
        toys.check(archive, "cityscapes-pixel", dataset, split="train")
    with pytest.raises(ValueError, match="there is no task 'boxes'; allowed are coco-boxes, coco-masks, "):
        task_named("boxes")


def test_damaged_and_encrypted(archives, tmp_path):
    archive, dataset = archives["cityscapes-pixel"]
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        info = file.infolist()[0]
    content[info.header_offset + 30 + len(info.filename) + 50] ^= 255
    (tmp_path / "d.zip").write_bytes(content)
    report = toys.check(tmp_path / "d.zip", "cityscapes-pixel", dataset)
    assert said(report) == ["a file in the zip is damaged"] and info.filename in report.text()
    content = bytearray(archive.read_bytes())
    start = content.rindex(b"PK\x01\x02")
    content[start + 8] |= 1
    (tmp_path / "e.zip").write_bytes(content)
    assert "files are encrypted" in said(toys.check(tmp_path / "e.zip", "cityscapes-pixel", dataset))


def test_age(archives):
    archive, dataset = archives["cityscapes-pixel"]
    written = archive.stat().st_mtime
    assert toys.check(archive, "cityscapes-pixel", dataset, newer_than=(written - 100, "w.pth")).ready
    report = toys.check(archive, "cityscapes-pixel", dataset, newer_than=(written + 100, "w.pth"))
    assert said(report)[0] == "the newest file is older than w.pth: these are predictions of an earlier run"


def test_length_of_the_list(archives):
    """A list that the user names may be short; a data set that is half there may not."""
    archive, dataset = archives["cityscapes-pixel"]
    sentence = "the server's split val has 500 images, the list has another number"
    assert f"remark: {sentence}" in said(toys.check(archive, "cityscapes-pixel", dataset))
    report = validate(archive, task_named("cityscapes-pixel"), "val", ImageList(image_list(dataset), dataset))
    assert said(report) == [sentence] and "4 in toy_cityscapes" in report.text()


def test_sizes(archives, monkeypatch):
    from fapn_d2.evaluation.submission.checks import common

    monkeypatch.setattr(common, "LARGE_JSON", 100)
    monkeypatch.setattr(common, "MANY_FILES", 3)
    boxes, dataset = archives["coco-boxes"]
    assert any("a JSON file has more than 1 GB" in text for text in said(toys.check(boxes, "coco-boxes", dataset)))
    pixels, dataset = archives["cityscapes-pixel"]
    assert any("more than 3 files" in text for text in said(toys.check(pixels, "cityscapes-pixel", dataset)))


# ---- COCO's arrays ----


def entries_changed(change: Callable[[list], object]) -> Callable[[Path], None]:
    """A change of the entries; it edits them or returns what takes their place."""

    def apply(folder: Path) -> None:
        (path,) = folder.glob("*.json")
        entries = json.loads(path.read_text())
        changed = change(entries)
        path.write_text(json.dumps(entries if changed is None else changed))

    return apply


def each(**fields) -> Callable[[Path], None]:
    """These fields in every entry; functions are called with the old value."""

    def change(entries):
        for entry in entries:
            for key, value in fields.items():
                entry[key] = value(entry.get(key)) if callable(value) else value

    return entries_changed(change)


def first(**fields) -> Callable[[Path], None]:
    """These fields in the first entry."""
    return entries_changed(lambda entries: entries[0].update(fields))


def contiguous(category: int) -> int:
    from detectron2.data import MetadataCatalog

    return MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id[category]


def half(code: dict) -> dict:
    import pycocotools.mask as mask_util

    from fapn_d2.evaluation.submission.coco import run_length

    mask = mask_util.decode(code)
    return run_length(mask[: mask.shape[0] // 2, : mask.shape[1] // 2])


def named(name: str) -> Callable[[Path], None]:
    """The JSON file under another name."""

    def apply(folder: Path) -> None:
        (path,) = folder.glob("*.json")
        (folder / name).parent.mkdir(exist_ok=True)
        path.rename(folder / name)

    return apply


def rewritten(change: Callable[[str], str]) -> Callable[[Path], None]:
    """The JSON file as another text."""

    def apply(folder: Path) -> None:
        (path,) = folder.glob("*.json")
        path.write_text(change(path.read_text()))

    return apply


def added(name: str, content: bytes | str = b"x") -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return apply


OBJECTS = [
    (added("two.json", "[]"), "there is more than one JSON file"),
    (added("mask.png"), "there are files that the server does not expect"),
    (named("run/detections_val2017_Toy_results.json"), "the JSON file is in a folder"),
    (named("results.json"), "the JSON file is not named like the archive"),
    (named("results.txt"), "there is no JSON file in the archive"),
    (rewritten(lambda text: text[: len(text) // 2]), "the JSON file is not JSON, or is cut short"),
    (rewritten(lambda text: text + "]"), "the JSON file is not JSON, or is cut short"),
    (entries_changed(lambda e: {"annotations": e}), "the JSON file is not an array of objects"),
    (entries_changed(lambda e: []), "there is no entry, for which the scorer fails"),
    (entries_changed(lambda e: [*e, 7]), "an entry is not an object"),
    (first(area=7), "an entry has the field area"),
    (entries_changed(lambda e: [{k: v for k, v in x.items() if k != "score"} for x in e]), "an entry lacks score"),
    (each(image_id=str), "image_id is not a whole number"),
    (each(image_id=lambda i: i + 100000), "image_id is not in the split: these are predictions on other images"),
    (each(category_id=float), "category_id is not a whole number"),
    (first(category_id=91), "category_id does not exist; allowed are COCO's 80 things"),
    (first(score=float("nan")), "score is not a finite number"),
    (first(score="0.5"), "score is not a finite number"),
    (
        entries_changed(lambda e: e * 40),
        "remark: an image has more than 100 objects; the server cuts off those with the lowest scores",
    ),
    (entries_changed(lambda e: [x for x in e if x["image_id"] == e[0]["image_id"]]), "remark: images have no object"),
]
BOXES = [
    (each(bbox=lambda b: [b[0], b[1], b[0] + b[2] + 200, b[1] + b[3] + 200]), "many boxes leave their images"),
    (first(bbox=[-5, 0, 3, 3]), "remark: a box leaves its image by more than a pixel"),
    (first(bbox=[0, 0, 0, 3]), "a box has no width or no height"),
    (first(bbox=[0, 0, 3]), "a box is not four finite numbers"),
    (first(bbox=[0, 0, 3, float("inf")]), "a box is not four finite numbers"),
]
MASKS = [
    (first(bbox=[0, 0, 3, 3]), "masks come with boxes, by which the server would measure the size of objects"),
    (first(segmentation=[[1, 1, 5, 1, 5, 5]]), "a mask is a polygon"),
    (first(segmentation={"size": [7, 9], "counts": "0"}), "a mask has another size than its image"),
    (each(segmentation=half), "a mask has half the size of its image"),
    (first(segmentation={"counts": "0"}), 'a mask is not {"size", "counts"}'),
    (each(segmentation=lambda c: {**c, "counts": [1, 2]}), "the run lengths of a mask are not compressed"),
    (each(segmentation=lambda c: {**c, "counts": c["counts"][:-1]}), "the run lengths of a mask cannot be decoded"),
    (each(segmentation=lambda c: {**c, "counts": ""}), "the run lengths of a mask cannot be decoded"),
]
STUFF = [
    (entries_changed(lambda e: [*e, e[0]]), "a class has two entries in one image"),
    (entries_changed(lambda e: [*e, {**e[0], "category_id": 183}]), "a class has two entries in one image"),
    (first(category_id=91), "category_id does not exist; allowed are 92 to 183"),
    (first(score=0.5), "an entry has the field score"),
    (entries_changed(lambda e: [x for x in e if x["image_id"] == e[0]["image_id"]]), "images have no prediction"),
]


def ids(cases) -> list[str]:
    return [re.sub(r"\W+", "_", sentence)[:50] for _, sentence in cases]


def assert_named(task: str, change, sentence: str, archives, tmp_path) -> None:
    archive, dataset = archives[task]
    report = toys.check(toys.damaged(archive, tmp_path / "d", change), task, dataset)
    before = said(toys.check(archive, task, dataset))
    new = [text for text in said(report) if text not in before]
    assert any(text.startswith(sentence) for text in new), report.text()
    assert report.ready == all(text.startswith("remark: ") for text in new)
    last = report.text().splitlines()[-1]
    assert last == "ready for the server" if report.ready else re.fullmatch(r"not ready: \d+ problems?", last)


@pytest.mark.parametrize(("change", "sentence"), OBJECTS, ids=ids(OBJECTS))
@pytest.mark.parametrize("task", ["coco-boxes", "coco-masks"])
def test_objects(task, change, sentence, archives, tmp_path):
    assert_named(task, change, sentence, archives, tmp_path)


@pytest.mark.parametrize(("change", "sentence"), BOXES, ids=ids(BOXES))
def test_boxes(change, sentence, archives, tmp_path):
    assert_named("coco-boxes", change, sentence, archives, tmp_path)


@pytest.mark.parametrize(("change", "sentence"), MASKS, ids=ids(MASKS))
def test_masks(change, sentence, archives, tmp_path):
    assert_named("coco-masks", change, sentence, archives, tmp_path)


@pytest.mark.parametrize(("change", "sentence"), STUFF, ids=ids(STUFF))
def test_stuff(change, sentence, archives, tmp_path):
    assert_named("coco-stuff", change, sentence, archives, tmp_path)


def test_overlapping_stuff(archives, tmp_path):
    import pycocotools.mask as mask_util

    from fapn_d2.evaluation.submission.coco import run_length

    def change(entries):
        mask = mask_util.decode(entries[0]["segmentation"])
        entries[0]["segmentation"] = run_length(np.ones_like(mask))

    assert_named(
        "coco-stuff", entries_changed(change), "masks of an image overlap: a pixel has one class", archives, tmp_path
    )


def test_boxes_sent_as_masks(archives, tmp_path):
    archive, dataset = archives["coco-boxes"]
    report = toys.check(archive, "coco-masks", dataset)
    assert said(report)[0] == "an entry lacks segmentation"
    assert "this looks like the results of another task than coco-masks" in report.text()


def test_contiguous_classes(archives, tmp_path):
    """Networks count from 0 to 79; COCO's ids have gaps."""
    sentence = "these are contiguous class numbers of a network (0 to 79), not COCO's category ids"
    assert_named("coco-boxes", each(category_id=contiguous), sentence, archives, tmp_path)
    fine = entries_changed(lambda e: [{**e[0], "category_id": c} for c in (1, 2, 80)] * 400)
    assert_named("coco-boxes", fine, f"remark: there is no category above 80: perhaps {sentence}", archives, tmp_path)


def test_name_of_the_archive(archives, tmp_path):
    archive, dataset = archives["coco-boxes"]
    renamed = tmp_path / "results.zip"
    renamed.write_bytes(archive.read_bytes())
    sentence = "the archive's name does not follow detections_val2017_ALGORITHM_results.zip"
    assert sentence in said(toys.check(renamed, "coco-boxes", dataset))


def test_run_lengths():
    """Decoded without pycocotools, which reads over the end of wrong ones."""
    from fapn_d2.evaluation.submission.coco import run_length

    rng = np.random.default_rng(0)
    for density in (0, 0.01, 0.5, 0.99, 1):
        for shape in ((1, 1), (7, 5), (200, 300)):
            code = run_length(rng.random(shape) < density)
            assert run_length_problem(code) is None
            assert "they cover" in run_length_problem({**code, "size": [shape[0], shape[1] + 1]})
    assert run_length_problem({"size": [1, 1], "counts": "\x7f"}).startswith("they hold characters")
    assert run_length_problem({"size": [1, 1], "counts": "o" * 9 + "0"}) == "a run is longer than any image"


# ---- panoptic ----


def annotations_changed(change: Callable[[list], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (path,) = folder.glob("*.json")
        content = json.loads(path.read_text())
        changed = change(content["annotations"])
        path.write_text(json.dumps({"annotations": content["annotations"] if changed is None else changed}))

    return apply


def first_png(change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    """The first PNG after a change of its pixels or its mode."""

    def apply(folder: Path) -> None:
        path = sorted(folder.rglob("*.png"))[0]
        with Image.open(path) as image:
            image.load()
        change(image).save(path)

    return apply


def every_png(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for path in folder.rglob("*.png"):
            with Image.open(path) as image:
                values = np.array(image)
            Image.fromarray(change(values)).save(path)

    return apply


def renamed_folder(folder: Path) -> None:
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    found.rename(folder / "pngs")


def without_first_png(folder: Path) -> None:
    sorted(folder.rglob("*.png"))[0].unlink()


def extra_png(folder: Path) -> None:
    path = sorted(folder.rglob("*.png"))[0]
    path.with_name("left_over.png").write_bytes(path.read_bytes())


def broken_png(folder: Path) -> None:
    path = sorted(folder.rglob("*.png"))[0]
    path.write_bytes(path.read_bytes()[:60])


def sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16))


def half_size(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST)


def other_size(image: Image.Image) -> Image.Image:
    return image.crop((0, 0, image.width - 3, image.height))


def segment(change: Callable[[list], None]) -> Callable[[Path], None]:
    """A change of the segments of the first image."""
    return annotations_changed(lambda a: change(a[0]["segments_info"]))


PANOPTIC = [
    (renamed_folder, "there is no folder of PNGs with the name of the JSON file"),
    (named("predictions.json"), "the JSON file is not named"),
    (named("in/it.json"), "the JSON file is in a folder"),
    (named("it.txt"), "there is no JSON file in the archive"),
    (added("two.json", "{}"), "there is more than one JSON file"),
    (rewritten(lambda text: text[:-30]), "the JSON file is not JSON, or is cut short"),
    (rewritten(lambda text: json.dumps(json.loads(text)["annotations"])), "the JSON file is not an object with annot"),
    (annotations_changed(lambda a: a[0].pop("file_name") and None), "an annotation lacks file_name"),
    (segment(lambda s: s[0].pop("category_id") and None), "segments_info is not a list of segments"),
    (annotations_changed(lambda a: a[1:]), "an image has no annotation"),
    (annotations_changed(lambda a: [*a, a[0]]), "an image has several annotations, of which the server keeps the last"),
    (annotations_changed(lambda a: a[0].update(image_id="mars") or None), "image_id is not in the split"),
    (annotations_changed(lambda a: a[0].update(file_name="a.jpg") or None), "file_name does not end in .png"),
    (without_first_png, "a PNG that the JSON file names is not in the archive"),
    (extra_png, "the JSON file does not name a file"),
    (broken_png, "a file is not a PNG that can be read"),
    (segment(lambda s: s[0].update(category_id=999)), "category_id does not exist"),
    (segment(lambda s: s.append(dict(s[0]))), "two segments of an image have one id"),
    (segment(lambda s: s.append({**s[0], "id": 0})), "a segment id is not a whole number from 1 to 16777215"),
    (segment(lambda s: s.pop() and None), "a segment is in the PNG and not in the JSON file"),
    (segment(lambda s: s.append({**s[0], "id": 99999})), "a segment is in the JSON file and not in the PNG"),
    (first_png(sixteen_bits), "a PNG has 16 bits"),
    (first_png(lambda i: i.convert("L")), "a PNG is not RGB, so it contains no segment ids"),
    (first_png(lambda i: i.convert("P")), "a PNG is not RGB, so it contains no segment ids"),
    (first_png(lambda i: i.convert("RGBA")), "remark: a PNG has an alpha channel, which the server ignores"),
    (first_png(half_size), "a prediction has half the size of its image"),
    (first_png(other_size), "a prediction has another size than its image"),
]


@pytest.mark.parametrize(("change", "sentence"), PANOPTIC, ids=ids(PANOPTIC))
@pytest.mark.parametrize("task", ["coco-panoptic", "cityscapes-panoptic"])
def test_panoptic(task, change, sentence, archives, tmp_path):
    assert_named(task, change, sentence, archives, tmp_path)


def test_mostly_void(archives, tmp_path):
    def change(folder):
        every_png(np.zeros_like)(folder)
        annotations_changed(lambda a: [x.update(segments_info=[]) for x in a] and None)(folder)

    assert_named("coco-panoptic", change, "remark: most pixels are in no segment", archives, tmp_path)


def test_classes_of_the_network_as_categories(archives, tmp_path):
    from fapn_d2.data.datasets.cityscapes import labels

    def to_train_ids(annotations):
        for s in (s for a in annotations for s in a["segments_info"]):
            s["category_id"] = labels()[s["category_id"]].trainId

    def to_contiguous(annotations):
        for s in (s for a in annotations for s in a["segments_info"]):
            s["category_id"] = 0 if s["category_id"] == 1 else min(s["category_id"], 130)
        annotations[0]["segments_info"][0]["category_id"] = 0

    def to_text(annotations):
        for a in annotations:
            a["image_id"] = str(a["image_id"])

    sentence = "the categories are train ids (0 to 18), not label ids"
    assert_named("cityscapes-panoptic", annotations_changed(to_train_ids), sentence, archives, tmp_path)
    sentence = "the categories are contiguous numbers of a network, not COCO's ids"
    assert_named("coco-panoptic", annotations_changed(to_contiguous), sentence, archives, tmp_path)
    sentence = "image_id is text where the server wants a number"
    assert_named("coco-panoptic", annotations_changed(to_text), sentence, archives, tmp_path)


# ---- label images ----


def value(number: int) -> Callable[[Path], None]:
    """One pixel of the first image with this value."""

    def change(image: Image.Image) -> Image.Image:
        image.putpixel((0, 0), number)
        return image

    return first_png(change)


LABELS = [
    (without_first_png, "an image has no prediction"),
    (extra_png, "a file belongs to no image of the split"),
    (broken_png, "a file is not a PNG that can be read"),
    (added("notes.md"), "there are files that the server does not expect"),
    (first_png(lambda i: i.convert("RGB")), "a label image has several channels: it shows colours"),
    (first_png(lambda i: i.convert("LA")), "a label image has several channels: it shows colours"),
    (first_png(sixteen_bits), "a label image has 16 bits, for which the server fails"),
    (first_png(lambda i: i.point(lambda v: v > 0, "1")), "a label image has fewer than 8 bits"),
    (first_png(half_size), "a prediction has half the size of its image"),
    (first_png(other_size), "a prediction has another size than its image"),
    (value(255), "255 is not a class: these are ignored pixels of the training labels"),
    (value(200), "200 is not a class: these are values that a conversion table did not know"),
    (value(180), "a value is not a class that the server scores"),
]


@pytest.mark.parametrize(("change", "sentence"), LABELS, ids=ids(LABELS))
@pytest.mark.parametrize("task", ["cityscapes-pixel", "ade20k", "vistas"])
def test_label_images(task, change, sentence, archives, tmp_path):
    assert_named(task, change, sentence, archives, tmp_path)


def test_classes_of_the_network_as_values(archives, tmp_path):
    from fapn_d2.evaluation.cityscapes.counts import label_table

    train = every_png(lambda values: label_table().train_id[values])
    assert_named("cityscapes-pixel", train, "these are train ids (0 to 18), not label ids", archives, tmp_path)
    ignoring = every_png(lambda v: np.where(v == 7, 255, label_table().train_id[v]).astype(np.uint8))
    assert_named("cityscapes-pixel", ignoring, "these are train ids (0 to 18), not label ids", archives, tmp_path)
    from_zero = every_png(lambda v: v - np.uint8(1))
    sentence = "remark: 0 occurs, which is not a class to the server: classes count from 1"
    assert_named("ade20k", from_zero, sentence, archives, tmp_path)
    assert_named("vistas", value(65), "a value is not a class that the server scores", archives, tmp_path)


def test_palette_images_and_folders_of_cities_are_fine(archives, tmp_path):
    archive, dataset = archives["cityscapes-pixel"]

    def change(folder):
        for path in list(folder.glob("*.png")):
            with Image.open(path) as image:
                image.load()
            image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
            (folder / path.name.split("_")[0]).mkdir(exist_ok=True)
            path.unlink()
            image.save(folder / path.name.split("_")[0] / path.name)

    report = toys.check(toys.damaged(archive, tmp_path / "d", change), "cityscapes-pixel", dataset)
    assert report.ready, report.text()


# ---- instances ----


def first_text(change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = sorted(folder.glob("*.txt"))[0]
        path.write_text(change(path.read_text()))

    return apply


def word(position: int, text: str) -> Callable[[Path], None]:
    """The word at this position of the first line."""

    def change(content: str) -> str:
        lines = content.split("\n")
        words = lines[0].split(" ")
        words[position] = text
        return "\n".join([" ".join(words), *lines[1:]])

    return first_text(change)


def without_first_text(folder: Path) -> None:
    sorted(folder.glob("*.txt"))[0].unlink()


def empty_mask(folder: Path) -> None:
    path = sorted(folder.glob("*.png"))[0]
    Image.fromarray(np.zeros(toys.CITY_SIZE, np.uint8)).save(path)


INSTANCES = [
    (without_first_text, "an image has no prediction"),
    (added("mars_000000_000019.txt", b""), "a file belongs to no image of the split"),
    (added("here_000000_000019.txt", b""), "an image has several predictions"),
    (added("notes.md"), "there are files that the server does not expect"),
    (first_text(lambda t: t + "\n"), "a line is blank, which the server refuses"),
    (first_text(lambda t: t.replace(" ", "  ", 1)), "a line does not have three words"),
    (word(0, "my mask.png"), "a line does not have three words"),
    (word(0, "/tmp/mask.png"), "the path of a mask is absolute"),
    (word(0, "../mask.png"), "the path of a mask leads out of the archive"),
    (word(1, "99"), "a label id does not exist, for which the server fails"),
    (word(1, "13"), "a label id has no instances: the server ignores the line silently"),
    (word(1, "car"), "a label id is not a number"),
    (word(2, "nan"), "a score is not a finite number"),
    (word(2, "high"), "a score is not a finite number"),
    (without_first_png, "a mask that a text file names is not in the archive"),
    (first_text(lambda t: t + t.split("\n")[0] + "\n"), "a mask is named in several lines"),
    (extra_png, "no text file names a mask"),
    (broken_png, "a file is not a PNG that can be read"),
    (empty_mask, "a mask is empty: the server skips it"),
    (first_png(half_size), "a prediction has half the size of its image"),
    (first_png(other_size), "a prediction has another size than its image"),
    (first_png(lambda i: i.convert("RGB")), "a mask has several channels"),
]


@pytest.mark.parametrize(("change", "sentence"), INSTANCES, ids=ids(INSTANCES))
def test_instances(change, sentence, archives, tmp_path):
    assert_named("cityscapes-instance", change, sentence, archives, tmp_path)


def test_what_the_instance_script_takes(archives, tmp_path):
    """An empty text, 8- and 16-bit masks, masks in folders, and no line end in the last line."""
    archive, dataset = archives["cityscapes-instance"]

    def change(folder):
        texts = sorted(folder.glob("*.txt"))
        for line in texts[0].read_text().splitlines():
            (folder / line.split(" ")[0]).unlink()
        texts[0].write_text("")
        (folder / "masks").mkdir()
        lines = texts[1].read_text().splitlines()
        for number, kind in zip(range(2), (np.uint8, np.uint16)):
            path = folder / lines[number].split(" ")[0]
            with Image.open(path) as image:
                mask = np.asarray(image).astype(kind)
            path.unlink()
            Image.fromarray(mask).save(folder / "masks" / path.name)
            lines[number] = f"masks/{lines[number]}"
        texts[1].write_text("\n".join(lines))

    report = toys.check(toys.damaged(archive, tmp_path / "d", change), "cityscapes-instance", dataset)
    assert report.ready, report.text()


# ---- the report ----


def test_report_counts_and_shows_three_places():
    report = Report()
    report.facts.append("a.zip")
    report.add(Fault("a pixel is wrong", "correct it", f"image {n}") for n in range(5))
    report.add([Fault("all is slow", where="here", remark=True), Fault("no name", "give one")])
    assert report.text().splitlines() == [
        "a.zip",
        "remark: all is slow",
        "   where: here",
        "1. a pixel is wrong (5 times)",
        "   where: image 0; image 1; image 2; ...",
        "   fix:   correct it",
        "2. no name",
        "   fix:   give one",
        "not ready: 2 problems",
    ]


def test_every_split_is_registered():
    for task in TASKS.values():
        for split in task.splits.values():
            assert split.dataset in DatasetCatalog, (task.name, split)
