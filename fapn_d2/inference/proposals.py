"""Writing the proposals of a trained region proposal network for a data set to a folder."""

import logging
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from tqdm import tqdm

from ..config.hashing import config_hash
from ..data.checks import check_dataset
from ..data.proposals import HEADER, ProposalFile, write_proposals
from ..evaluation.submission.pack import images_hash
from ..evaluation.submission.parts import PartsFolder, PartsInOrder
from ..evaluation.submission.writer import Part, Writer
from ..heads.mask_proposals import MaskProposals
from .submission import begin, fingerprint, missing_records, predict
from .trained import load_trained

logger = logging.getLogger(__name__)


class ProposalWriter(Writer):
    """Turns proposals into parts: boxes in pixels of the original image, and logits, both as bytes of float32."""

    output = "proposals"
    writes_files = True

    def part(self, record: dict, output: dict) -> Part:
        """Boxes and logits of an image."""
        found = output["proposals"].to("cpu")
        boxes = found.proposal_boxes.tensor.float().numpy().astype("<f4")
        logits = found.objectness_logits.float().numpy().astype("<f4")
        return Part(str(record["image_id"]), files=(("boxes", boxes.tobytes()), ("logits", logits.tobytes())))


def extract_proposals(
    cfg: CfgNode,
    dataset: str,
    output: Path,
    *,
    per_image: int = 2000,
    restart: bool = False,
    allow_partial: bool = False,
) -> ProposalFile | None:
    """Write the proposals of a network for the images of a data set. Every process must call this.

    Predictions from before an interruption are in ``<output>.parts`` and are not repeated.

    Args:
        cfg: the config of a ProposalNetwork from ``load_config``, with MODEL.WEIGHTS.
        dataset: a registered data set.
        output: the folder to write, on a disk that all processes share.
        per_image: the largest number of proposals per image.
        restart: whether to remove the predictions of an earlier start, and an existing complete folder.
        allow_partial: whether to continue if weights are missing or do not fit.

    Returns:
        The proposals, in the main process; None in the others.

    Raises:
        ValueError, FileNotFoundError: the data set or the weights cannot be used, the network does not return
            proposals, or ``output`` has the proposals of another data set, checkpoint or config.
    """
    if per_image < 1:
        raise ValueError(f"the number of proposals per image must be at least 1, got {per_image}")
    if MaskProposals.__name__ == cfg.MODEL.PROPOSAL_GENERATOR.NAME:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} proposes masks; files of proposals hold boxes, "
            'which "ProposalNetwork" with MODEL.PROPOSAL_GENERATOR.NAME "RPN" gives'
        )
    check_dataset(cfg, dataset)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = per_image
    names = ("file_name", "image_id", "height", "width")
    records = [{k: r[k] for k in names if k in r} for r in DatasetCatalog.get(dataset)]
    model = load_trained(cfg, name="the proposal network", allow_partial=allow_partial)
    described = {
        "task": "proposals",
        "dataset": dataset,
        "images": images_hash(records),
        "config": config_hash(cfg, without=("MODEL.WEIGHTS", "DATASETS", "SOLVER", "DATALOADER", "TEST")),
        "weights": fingerprint(model),
        "limits": {"per_image": per_image},
        "source": "",
    }
    if not restart and (output / HEADER).is_file() and not (parts_of(output)).exists():
        found = ProposalFile(output)
        if differ := [key for key, value in described.items() if found.header.get(key) != value]:
            raise ValueError(
                f"{output} holds other proposals ({', '.join(differ)} differ); name another folder, or replace them by "
                "--restart"
            )
        logger.info("%s is complete.", output)
        return found if comm.is_main_process() else None
    parts = PartsFolder(parts_of(output))
    begin(parts, described | {"started": datetime.now().astimezone().isoformat()}, restart=restart)
    predict(cfg, model, ProposalWriter(dataset), parts, missing_records(parts, records))
    comm.synchronize()
    if not comm.is_main_process():
        return None
    header = described | {"checkpoint": cfg.MODEL.WEIGHTS}
    images = [record["image_id"] for record in records]
    write_proposals(output, header, images, _arrays(parts.parts(map(str, images))))
    shutil.rmtree(parts.folder)
    found = ProposalFile(output)
    logger.info("%s: %d proposals for %d images", output, found.header["num_proposals"], found.header["num_images"])
    return found


def parts_of(output: Path) -> Path:
    """The folder of the predictions so far."""
    return output.with_name(f"{output.name}.parts")


def _arrays(parts: PartsInOrder) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for part in tqdm(parts, desc="writing", unit="image", delay=2):
        files = dict(part.files)
        yield np.frombuffer(files["boxes"], "<f4").reshape(-1, 4), np.frombuffer(files["logits"], "<f4")
