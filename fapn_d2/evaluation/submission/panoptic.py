"""Panoptic predictions for COCO and Cityscapes: a JSON file and a folder of PNGs.

Format: cocodataset.org, "Results Format". Cityscapes has the same format, with label ids as categories and
``<city>_<sequence>_<frame>`` as image ids.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...data.panoptic_png import id2rgb
from ...messages import some
from ..panoptic import in_dataset_ids
from .writer import Part, Writer, png


class Panoptic(Writer):
    """Per image a PNG of segment ids and ``{"image_id", "file_name", "segments_info": [{"id", "category_id"}]}``."""

    output = "panoptic_seg"
    writes_json = writes_files = True

    def part(self, record: dict, output: dict) -> Part:
        ids, segments = in_dataset_ids(*output["panoptic_seg"], self.metadata)
        listed, present = [s["id"] for s in segments], set(np.unique(ids).tolist()) - {0}
        if set(listed) != present or len(set(listed)) < len(listed):
            where = f"segments {some(set(listed) ^ present)} are" if set(listed) != present else "a segment is"
            raise ValueError(f"{record['file_name']}: {where} in the list or in the image only, or listed twice")
        if present and not 0 < min(present) <= max(present) < 256**3:
            raise ValueError(f"{record['file_name']}: segment ids must be 1..{256**3 - 1}, found {max(present)}")
        return self._part(record, segments, png(id2rgb(ids)))

    @staticmethod
    def _part(record: dict, segments: list[dict], content: bytes) -> Part:
        name = f"{Path(record['file_name']).stem.removesuffix('_leftImg8bit')}.png"
        entry = {"image_id": record["image_id"], "file_name": name, "segments_info": segments}
        return Part(str(record["image_id"]), (entry,), ((name, content),))

    def kept_parts(self, folder: Path, records: Sequence[dict]) -> Iterator[Part]:
        """From ``panoptic/predictions.json`` and the PNGs beside it."""
        path = folder / "panoptic" / "predictions.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is absent: evaluate with TEST.KEEP_PREDICTIONS True")
        entries = {a["image_id"]: a for a in json.loads(path.read_text())["annotations"]}
        if missing := [r["image_id"] for r in records if r["image_id"] not in entries]:
            raise FileNotFoundError(f"{path} lacks {len(missing)} of {len(records)} images ({some(missing)})")
        for record in records:
            entry = entries[record["image_id"]]
            segments = [{key: s[key] for key in ("id", "category_id")} for s in entry["segments_info"]]
            yield self._part(record, segments, (path.parent / entry["file_name"]).read_bytes())
