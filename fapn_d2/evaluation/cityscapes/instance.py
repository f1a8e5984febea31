"""Instance segmentation on Cityscapes by the official script, in any number of processes on any number of machines.

Detectron2's evaluator writes all predictions to one machine's disk and matches them in one process. Images
are matched independently, so here each process matches its own images, and only the matches (a few numbers per object)
are gathered.
"""

import logging
import math
import os
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from PIL import Image

from ..gather import concatenate_over_processes, require_every_image
from .files import ground_truth_files, image_key
from .official import instance_matches, instance_scores, load

logger = logging.getLogger(__name__)


class CityscapesInstanceEvaluator(DatasetEvaluator):
    """AP and AP50 of masks, over the classes with instances, and of each class.

    Args:
        dataset_name: e.g. "cityscapes_fine_instance_seg_val"; its metadata hold "thing_classes", and "gt_dir" with
            ``instanceIds`` PNGs.
        prediction_dir: folder for the predictions in the format of the test server: for each image a text file with one
            line "mask file, label id, score" per object, and the masks as PNGs. None: they are not kept.

    Raises:
        FileNotFoundError: there is no ground truth.
        ValueError: a class is not one of Cityscapes'; the package cityscapesscripts is not installed.
    """

    def __init__(self, dataset_name: str, *, prediction_dir: str | None = None):
        self._name = dataset_name
        self._truths = ground_truth_files(dataset_name, "instanceIds")
        label_of = load("helpers.labels").name2label
        self._classes = list(MetadataCatalog.get(dataset_name).thing_classes)
        if unknown := [name for name in self._classes if name not in label_of]:
            raise ValueError(f"{dataset_name}: {unknown[0]!r} is not a class of Cityscapes ({', '.join(label_of)})")
        self._label_ids = [label_of[name].id for name in self._classes]
        self._prediction_dir = prediction_dir
        self._temporary: tempfile.TemporaryDirectory | None = None
        self.reset()

    def reset(self) -> None:
        if self._prediction_dir:
            self._folder = Path(self._prediction_dir)
            self._folder.mkdir(parents=True, exist_ok=True)
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="cityscapes_instances_")
            self._folder = Path(self._temporary.name)
        self._seen: list[str] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Write the predictions of a batch.

        Args:
            inputs: the records, with "file_name".
            outputs: the outputs, with "instances": ``pred_masks`` (N, H, W) of the size of the ground truth,
                ``pred_classes``, ``scores``.

        Raises:
            ValueError: an image has no ground truth.
        """
        for record, output in zip(inputs, outputs):
            key = image_key(record["file_name"])
            if key not in self._truths:
                raise ValueError(f"{record['file_name']} has no ground truth in {self._name}")
            self._write(key, output["instances"].to("cpu"))
            self._seen.append(key)

    def _text_file(self, key: str) -> Path:
        return self._folder / f"{key}_pred.txt"

    def _write(self, key: str, instances: Instances) -> None:
        lines = []
        for i in range(len(instances)):
            number = int(instances.pred_classes[i])
            # A space would end the file name in the text file. Only renamed classes can have one.
            mask_file = f"{key}_{i}_{self._classes[number].replace(' ', '_')}.png"
            mask = instances.pred_masks[i].numpy().astype(np.uint8)
            Image.fromarray(255 * mask).save(self._folder / mask_file)
            lines.append(f"{mask_file} {self._label_ids[number]} {float(instances.scores[i])}\n")
        self._text_file(key).write_text("".join(lines))

    def evaluate(self) -> OrderedDict | None:
        """``{"segm": {"AP", "AP50", "AP-<class>"}}`` in percent on the main process, None on the others.

        Raises:
            ValueError: images were left out or evaluated twice.
        """
        require_every_image(concatenate_over_processes(self._seen), list(self._truths), self._name)
        pairs = [(str(self._text_file(key)), self._truths[key]) for key in self._seen]
        # keyed by image, because paths differ between machines; sorted, so that equal scores always have the same order
        matches = dict(zip(self._seen, instance_matches(pairs).values()))
        gathered = dict(sorted(concatenate_over_processes(list(matches.items()))))
        if self._temporary:
            self._temporary.cleanup()
        if not comm.is_main_process():
            return None
        official = instance_scores(gathered)
        scores = {"AP": official["allAp"], "AP50": official["allAp50%"]}
        # the classes of panoptic data sets include stuff, which has no AP
        named = [name for name in self._classes if name in official["classes"]]
        scores |= {f"AP-{name}": official["classes"][name]["ap"] for name in named}
        scores = {name: 100 * float(score) for name, score in scores.items()}
        logger.info("Cityscapes instances: %s", {k: round(v, 3) for k, v in scores.items() if not math.isnan(v)})
        if self._prediction_dir:
            logger.info("Predictions in the server's format: %s", os.path.abspath(self._prediction_dir))
        return OrderedDict(segm=scores)
