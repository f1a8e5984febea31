"""Many images take no more memory than few: parts, archive and check look at one after the other."""

import tracemalloc
from pathlib import Path

import numpy as np

from fapn_d2.evaluation.submission.checks.submission import ImageList
from fapn_d2.evaluation.submission.coco import run_length
from fapn_d2.evaluation.submission.json_stream import array_entries
from fapn_d2.evaluation.submission.pack import manifest, pack
from fapn_d2.evaluation.submission.parts import PartsFolder
from fapn_d2.evaluation.submission.tasks import task_named
from fapn_d2.evaluation.submission.validator import validate
from fapn_d2.evaluation.submission.writer import Part


def peak(folder: Path, images: int) -> tuple[int, int]:
    """(most bytes at a time, size of the JSON) of COCO masks, 50 per image, from parts to the report."""
    rng = np.random.default_rng(0)
    code = run_length(rng.random((120, 160)) < 0.2)
    entry = {"category_id": 1, "segmentation": code, "score": 0.5}
    records = [{"image_id": i, "file_name": f"{i}.jpg", "height": 120, "width": 160} for i in range(images)]
    task = task_named("coco-masks")
    writer, parts = task.writer("coco_2017_val"), PartsFolder(folder / "parts")
    tracemalloc.start()
    parts.begin(manifest(task, writer, records))
    with parts.appending() as file:
        for i in range(images):
            file.add(Part(str(i), tuple({"image_id": i, **entry} for _ in range(50))))
    archive = pack(parts, task, "test-dev", "Toy", records, folder, has_files=False)
    report = validate(archive, task, "test-dev", ImageList(records, "list", complete=False))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.ready, report.text()
    assert f"{50 * images} entries on {images} images" in report.text()
    return most, 50 * images * len(code["counts"])


def test_masks_of_many_images(tmp_path):
    few, many = (peak(tmp_path / str(images), images) for images in (5, 40))
    assert many[1] - few[1] > 8e6  # so much more is written and read
    assert many[0] - few[0] < 0.25 * (many[1] - few[1])


def test_kept_objects_are_read_one_by_one(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" + ",".join(['{"a": "' + "x" * 1000 + '"}'] * 20000) + "]")
    tracemalloc.start()
    with open(path, "rb") as file:
        assert sum(1 for _ in array_entries(file)) == 20000
    assert tracemalloc.get_traced_memory()[1] < 8e6 < 20e6 < path.stat().st_size
    tracemalloc.stop()
