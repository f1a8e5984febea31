"""A data set of small images and a small network that draws random numbers, for tests of the training loop."""

from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from PIL import Image
from torch import nn
from torch.nn import functional as F

from fapn_d2.config.loading import load_config

VOID = 11


def write_camvid(root: Path, *, images: int = 6, size: tuple[int, int] = (32, 32), void: bool = True) -> Path:
    """CamVid's layout with coloured rectangles whose colour tells the class. Returns ``root`` (the data root)."""
    generator = np.random.default_rng(0)
    colors = generator.integers(0, 255, size=(VOID + 1, 3))
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (root / "camvid" / folder).mkdir(parents=True, exist_ok=True)
        for n in range(images):
            h, w = size if n % 3 else size[::-1]
            label = np.full((h, w), generator.integers(0, VOID), np.uint8)
            label[h // 4 : h // 2, w // 4 :] = generator.integers(0, VOID)
            if void:
                label[:2] = VOID
            Image.fromarray(label).save(root / "camvid" / f"{split}annot" / f"{n}.png")
            noise = generator.integers(-20, 20, size=(h, w, 3))
            image = np.clip(colors[label] + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / "camvid" / split / f"{n}.png")
    return root


@META_ARCH_REGISTRY.register()
class ToySegmentor(nn.Module):
    """Two convolutions with dropout between them; ``norm`` from MODEL.FPN.NORM ("", "BN", "SyncBN")."""

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.hidden = nn.Conv2d(3, 8, 3, padding=1)
        norms = {"": nn.Identity, "BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}
        self.norm = norms[cfg.MODEL.FPN.NORM](8)
        self.dropout = nn.Dropout(0.3)
        self.scores = nn.Conv2d(8, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1)
        self.to(cfg.MODEL.DEVICE)

    def forward(self, batch: list[dict]):
        device = self.scores.weight.device
        images = ImageList.from_tensors([x["image"].to(device).float() / 255 - 0.5 for x in batch]).tensor
        scores = self.scores(self.dropout(F.relu(self.norm(self.hidden(images)))))
        if self.training:
            target = ImageList.from_tensors([x["sem_seg"].to(device) for x in batch], pad_value=VOID).tensor
            loss = F.cross_entropy(scores.float(), target, ignore_index=VOID)
            return {"loss_sem_seg": loss, "loss_size": 1e-3 * scores.float().square().mean()}
        sizes = [(x["height"], x["width"]) for x in batch]
        return [
            {"sem_seg": F.interpolate(s[None, :, : x["image"].shape[1], : x["image"].shape[2]], size)[0]}
            for s, size, x in zip(scores, sizes, batch)
        ]


def toy_config(folder: Path, *opts: str) -> CfgNode:
    """Trains the toy on the toy CamVid of DETECTRON2_DATASETS, on the CPU, six iterations."""
    return load_config(
        "",
        [
            *("MODEL.META_ARCHITECTURE", "ToySegmentor", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""),
            *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "11", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", str(VOID)),
            *("DATASETS.TRAIN", "('camvid_sem_seg_train',)", "DATASETS.TEST", "('camvid_sem_seg_val',)"),
            *("INPUT.MIN_SIZE_TRAIN", "(24, 32)", "INPUT.MIN_SIZE_TEST", "32", "DATALOADER.NUM_WORKERS", "0"),
            *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.1", "SOLVER.MAX_ITER", "6", "SOLVER.STEPS", "()"),
            *("SOLVER.WARMUP_ITERS", "2", "SOLVER.CHECKPOINT_PERIOD", "100", "SEED", "7"),
            *("OUTPUT_DIR", str(folder), *opts),
        ],
    )


def losses_of(trainer) -> dict[int, float]:
    """Iteration -> total loss, as the trainer stored it."""
    return {n: value for value, n in trainer.storage.history("total_loss").values()}


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())
