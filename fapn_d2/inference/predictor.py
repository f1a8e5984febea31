"""A trained network that takes image files or arrays."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import AugInput
from torch import nn

from ..data import PyramidDatasetMapper
from .semantic import build_inference
from .trained import load_trained, trained_config

#: Endings of the files in a folder that count as images.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")


class Predictor:
    """Predictions of one network, with images read, resized and normalised as in the evaluation of its config.

    ::

        predictor = Predictor.load("output/run/config.yaml", weights="output/run/model_final.pth")
        output = predictor("photograph.jpg")

    Args:
        cfg: a config from ``load_config``.
        model: the network of this config in evaluation mode, as from ``load_trained``.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        self.cfg = cfg
        self.model = build_inference(cfg, model).eval()
        self._mapper = PyramidDatasetMapper(cfg, is_train=False)

    @classmethod
    def load(cls, config_file: str = "", *, weights: str = "", opts: Sequence[str] = ()) -> "Predictor":
        """The predictor of a config and a checkpoint.

        Args:
            config_file: a YAML file; "" uses ``config.yaml`` in the folder of ``weights``, where a training writes it.
            weights: a checkpoint; "" uses MODEL.WEIGHTS of the config.
            opts: ``["KEY", "value", ...]``, which override the config.

        Raises:
            FileNotFoundError: the config or the checkpoint does not exist.
            ValueError: neither is given, or they do not fit each other.
        """
        cfg = trained_config(find_config(config_file, weights), weights=weights, opts=opts)
        return cls(cfg, load_trained(cfg))

    def __call__(self, image: str | Path | np.ndarray) -> dict:
        """Predict one image.

        Args:
            image: a file, or an (H, W, 3) uint8 array whose channels are in the order of INPUT.FORMAT.

        Returns:
            Detectron2's output of one image, on the CPU and at the size of the image: "instances", "sem_seg" (K, H, W)
            or "panoptic_seg" ((H, W) ids, segments), whichever the network has.

        Raises:
            FileNotFoundError: the file does not exist.
            BadImageError: it cannot be read (a ValueError that names the file).
        """
        return self.predict([self.sample(image)])[0]

    def sample(self, image: str | Path | np.ndarray) -> dict:
        """The input of the network for an image: a dict with "image" (3, h, w), "height" and "width"."""
        if not isinstance(image, np.ndarray):
            return self._mapper({"file_name": str(image)})
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"an image must be an (H, W, 3) uint8 array in the order {self.cfg.INPUT.FORMAT}, got "
                f"{image.dtype} of shape {image.shape}"
            )
        resized = AugInput(image)
        self._mapper.augmentations(resized)
        pixels = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        return {"image": pixels, "height": image.shape[0], "width": image.shape[1]}

    @torch.no_grad()
    def predict(self, samples: Sequence[dict]) -> list[dict]:
        """One forward pass for several results of :meth:`sample`. The outputs are those of :meth:`__call__`."""
        return [_on_cpu(output) for output in self.model(list(samples))]


def find_config(config_file: str, weights: str) -> str:
    """``config_file``, or the ``config.yaml`` that a training wrote beside its checkpoint ``weights``.

    Raises:
        ValueError: there is neither a config nor a ``config.yaml``.
    """
    if config_file:
        return config_file
    if not weights:
        raise ValueError("there is no network: name a config (--config-file), a checkpoint (--weights), or both")
    beside = Path(weights).parent / "config.yaml"
    if not beside.is_file():
        raise ValueError(f"{weights} has no config.yaml in its folder: name the config of its training (--config-file)")
    return str(beside)


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The image files in a list of files, folders and patterns with ``*``. Each is listed once, sorted within a folder.

    Raises:
        FileNotFoundError: a file does not exist, a pattern matches nothing, or a folder contains no images.
    """
    found: dict[Path, None] = {}
    for given in map(Path, inputs):
        if given.is_dir():
            files = sorted(p for p in given.iterdir() if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())
            if not files:
                raise FileNotFoundError(f"folder {given} contains no images; known endings: {', '.join(IMAGE_ENDINGS)}")
        elif given.is_file():
            files = [given]
        elif set("*?[") & set(str(given)):
            anchor = Path(given.anchor) if given.is_absolute() else Path()
            files = sorted(p for p in anchor.glob(str(given.relative_to(given.anchor))) if p.is_file())
            if not files:
                raise FileNotFoundError(f"no file matches the pattern {given}")
        else:
            raise FileNotFoundError(f"image {given} does not exist")
        found.update(dict.fromkeys(files))
    return list(found)


def batches_of_one_shape(samples: Iterable[dict], size: int) -> Iterator[list[dict]]:
    """Batches of at most ``size`` consecutive samples with images of the same shape, so no image is padded."""
    batch: list[dict] = []
    for sample in samples:
        if batch and (len(batch) == size or batch[0]["image"].shape != sample["image"].shape):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _on_cpu(output: dict) -> dict:
    moved = {}
    for name, value in output.items():
        if isinstance(value, tuple):  # panoptic: (ids, segments)
            moved[name] = (value[0].cpu(), value[1])
        else:
            moved[name] = value.to("cpu") if hasattr(value, "to") else value
    return moved
