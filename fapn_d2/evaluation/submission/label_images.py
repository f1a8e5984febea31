"""Classes of pixels as images: Cityscapes' pixel level, ADE20K, Mapillary Vistas.

Values are label ids in Cityscapes (7 road ... 33 bicycle), classes counted from 1 in ADE20K (0 is "other"), and
positions in the list of the config file in Mapillary Vistas.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...messages import some
from ..cityscapes.counts import label_table
from ..cityscapes.files import image_key
from ..sem_seg import KEPT_FOLDER, class_map
from .writer import Limits, Part, Writer, decoded, png


class LabelImages(Writer):
    """An 8-bit grey PNG for each image, with the image's name.

    Args:
        dataset_name: see :class:`Writer`.
        limits: not used.
        values: class of the network -> value in the file.
    """

    output = "sem_seg"
    writes_files = True

    def __init__(self, dataset_name: str, limits: Limits | None = None, *, values: Sequence[int]):
        super().__init__(dataset_name, limits)
        self._values = np.array(values, np.uint8)

    def part(self, record: dict, output: dict) -> Part:
        scores = output["sem_seg"]
        if scores.shape[0] != len(self._values):
            raise ValueError(
                f"{record['file_name']}: the network predicts {scores.shape[0]} classes, the server knows "
                f"{len(self._values)}: set MODEL.SEM_SEG_HEAD.NUM_CLASSES {len(self._values)}"
            )
        return self._part(record, png(self._values[class_map(scores).cpu().numpy()]))

    def _name(self, record: dict) -> str:
        return f"{Path(record['file_name']).stem}.png"

    def _part(self, record: dict, content: bytes) -> Part:
        return Part(str(record["image_id"]), files=((self._name(record), content),))

    def _kept_file(self, folder: Path, record: dict) -> Path:
        return folder / KEPT_FOLDER / f"{Path(record['file_name']).stem}.png"

    def _from_kept(self, path: Path) -> bytes:
        return png(self._values[decoded(path)])

    def kept_parts(self, folder: Path, records: Sequence[dict]) -> Iterator[Part]:
        paths = [self._kept_file(folder, record) for record in records]
        if missing := [path for path in paths if not path.is_file()]:
            raise FileNotFoundError(
                f"{len(missing)} of {len(paths)} predictions are absent ({some(missing)}): evaluate with "
                "TEST.KEEP_PREDICTIONS True"
            )
        for record, path in zip(records, paths):
            yield self._part(record, self._from_kept(path))


class CityscapesPixels(LabelImages):
    """``<city>_<sequence>_<frame>_pred.png`` with label ids."""

    def __init__(self, dataset_name: str, limits: Limits | None = None):
        super().__init__(dataset_name, limits, values=label_table().label_id)

    def _name(self, record: dict) -> str:
        return f"{image_key(record['file_name'])}_pred.png"

    def _kept_file(self, folder: Path, record: dict) -> Path:
        return folder / "cityscapes_semantic" / self._name(record)

    def _from_kept(self, path: Path) -> bytes:
        return path.read_bytes()  # label ids already
