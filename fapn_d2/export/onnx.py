"""Export of semantic networks as ONNX files, each compared with PyTorch before it is accepted.

FaPN's deformable convolution is written as the operator DeformConv. onnxruntime 1.23 and other runtimes lack it; for
these, ``grid_sample`` writes the convolution as GridSample and MatMul.

Legend: N images, K classes, H x W size of the images.
"""

import copy
import importlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from ..config.hashing import config_hash
from ..inference.segmentor import ExportedSegmentor
from ..layers.deform_conv.sampled import sample_deform_convs
from ..version import __version__
from .onnx_check import TOLERANCE, Comparison, compare, hint_about

logger = logging.getLogger(__name__)

#: ONNX has GridSample (which warps by a flow) from opset 16 on, DeformConv from 19. PyTorch writes 18 and later.
LEAST_OPSET, OPSET = 18, 20
#: The network is traced on two images of this size. With free sizes, nothing in the file depends on it.
_TRACED = (120, 168)
#: Sizes (N, H, W) at which a file with free sizes is compared, besides the requested size: odd sides, and a batch.
_CHECKED = ((1, 97, 131), (2, 64, 150), (1, 225, 161), (1, 128, 128))


@dataclass(frozen=True)
class Export:
    """A file that was written and found equal to the network."""

    path: Path
    opset: int
    free_size: bool
    comparisons: tuple[Comparison, ...]

    @property
    def text(self) -> str:
        """A table of the sizes at which file and network were compared."""
        sizes = "any height, width and batch" if self.free_size else "one size"
        lines = [
            f"{self.path}: {self.path.stat().st_size / 1e6:.1f} MB, opset {self.opset}, {sizes}",
            f"  {'images':>16} {'difference / largest logit':>27} {'torch':>9} {'onnxruntime':>12}   "
            f"(CPU, {torch.get_num_threads()} thread{'s'[: torch.get_num_threads() != 1]})",
        ]
        for c in self.comparisons:
            size = " x ".join(map(str, c.size))
            lines.append(f"  {size:>16} {c.difference:>27.1e} {c.torch_s:>7.3f} s {c.onnxruntime_s:>10.3f} s")
        return "\n".join(lines)


def export_onnx(
    model: nn.Module,
    cfg: CfgNode,
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    static: bool = False,
    opset: int = OPSET,
    labels: bool = False,
    uint8: bool = False,
    grid_sample: bool = False,
) -> Export:
    """Write a network as ONNX and compare the file, run by onnxruntime, with the network.

    The input of the file is ``image`` (N,3,H,W), its output ``logits`` (N,K,H,W). Its metadata describe the format of
    the image, the classes, and the origin of the network.

    Args:
        model: the network, on the CPU; see :class:`ExportedSegmentor`.
        cfg: the config of the network, for the metadata.
        path: path of the file; its folder is created if it does not exist.
        size: (H,W) of an additional comparison; with ``static`` the size of the network's images.
        static: fix H, W and N = 1, for networks or runtimes that need it.
        opset: version of ONNX's operators.
        labels: add a second output ``labels`` (N,H,W) int64, the class with the highest logit.
        uint8: whether the type of the image is uint8 instead of float32.
        grid_sample: write deformable convolutions without DeformConv, for runtimes that lack it.

    Raises:
        ValueError: a package is missing, an argument is out of range, the network is of another kind or cannot be
            exported in this way, or the file differs from the network. A file that differs is kept as
            ``*.mismatch.onnx``, and there is no file at ``path``.
    """
    require_packages()
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"{path} must end with .onnx")
    _check_opset(opset)
    if static and size is None:
        raise ValueError("--static needs --size HEIGHTxWIDTH, the size of all images")
    wanted = _sizes(size, static=static)
    exported = ExportedSegmentor(model, labels=labels)
    if grid_sample:
        exported = copy.deepcopy(exported)  # the file is compared with the unchanged network
        sample_deform_convs(exported)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # if the export fails, an older file must not be mistaken for the new one
    mismatch = path.with_suffix(".mismatch.onnx")
    _write(exported, mismatch, shape=wanted[0], static=static, opset=opset, uint8=uint8)
    _describe(mismatch, cfg, opset=opset, labels=labels, uint8=uint8)
    comparisons = compare(model, mismatch, wanted, uint8=uint8)
    _refuse_mismatch(comparisons, mismatch)
    mismatch.replace(path)
    return Export(path, opset, not static, tuple(comparisons))


def require_packages() -> None:
    """Raise ValueError, with the command that installs it, if a package of the extra "export" is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f'export to ONNX needs the package {name}: pip install "fapn_d2[export]"') from error


def _check_opset(opset: int) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not LEAST_OPSET <= opset <= newest:
        raise ValueError(
            f"--opset {opset}: PyTorch's exporter writes {LEAST_OPSET} and later, onnx {onnx.__version__} knows "
            f"{newest} and earlier"
        )


def _sizes(size: tuple[int, int] | None, *, static: bool) -> list[tuple[int, int, int]]:
    """(N,H,W) of all comparisons: three images of the fixed size, or several sizes."""
    if static:
        return [(1, *size)] * 3
    return [*([(1, *size)] if size else []), *_CHECKED]


def _write(
    exported: ExportedSegmentor, path: Path, *, shape: tuple[int, int, int], static: bool, opset: int, uint8: bool
) -> None:
    n, height, width = shape if static else (2, *_TRACED)
    image = torch.zeros(n, 3, height, width, dtype=torch.uint8 if uint8 else torch.float32)
    free = {0: "batch", 2: "height", 3: "width"}
    try:
        with torch.no_grad():
            torch.onnx.export(
                exported,
                (image,),
                path,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                external_data=False,
                input_names=["image"],
                output_names=["logits", "labels"] if exported.labels else ["logits"],
                dynamic_shapes=None if static else {"image": free},
            )
    except torch.onnx.OnnxExporterError as error:
        reason = error.__cause__ or error
        hint = "" if static else " with free sizes; --static with --size HEIGHTxWIDTH may be possible"
        raise ValueError(
            f"the network cannot be exported{hint}. PyTorch says: {type(reason).__name__}: {reason}"
        ) from error


def _describe(path: Path, cfg: CfgNode, *, opset: int, labels: bool, uint8: bool) -> None:
    """Write the format of the input and output and the origin of the network into the metadata; check the file."""
    import onnx

    model = onnx.load(path)
    written = next(entry.version for entry in model.opset_import if not entry.domain)
    if written != opset:  # the converter returns a file unchanged if it cannot convert it
        raise ValueError(f"{path} has opset {written}: PyTorch could not write this network as opset {opset}")
    model.producer_name, model.producer_version = "fapn_d2", __version__
    names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("stuff_classes") if cfg.DATASETS.TEST else None
    facts = {
        "input": f"image: N x {len(cfg.MODEL.PIXEL_MEAN)} x H x W, {'uint8' if uint8 else 'float32'}, 0 to 255, "
        f"{cfg.INPUT.FORMAT}; the network subtracts the mean and divides by the deviation itself",
        "output": "logits: N x classes x H x W"
        + ("; labels: N x H x W, the class with the highest logit" if labels else ""),
        "color_order": cfg.INPUT.FORMAT,
        "pixel_mean": json.dumps(list(cfg.MODEL.PIXEL_MEAN)),
        "pixel_std": json.dumps(list(cfg.MODEL.PIXEL_STD)),
        "num_classes": str(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES),
        "classes": json.dumps(list(names)) if names else "",
        "fapn_d2_version": __version__,
        "config_hash": config_hash(cfg),
        "weights": Path(cfg.MODEL.WEIGHTS).name,
    }
    onnx.helper.set_model_props(model, {key: value for key, value in facts.items() if value})
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ValueError(
            f"{path} is not valid ONNX and kept for inspection only: {error}{hint_about(error)}"
        ) from error
    onnx.save(model, path)


def _refuse_mismatch(comparisons: Sequence[Comparison], path: Path) -> None:
    # "not <=" also catches a difference that is NaN
    wrong = [c for c in comparisons if not c.difference <= TOLERANCE or not c.labels_agree]
    if wrong:
        sizes = "; ".join(
            f"{' x '.join(map(str, c.size))}: {c.difference:.1e}" + ("" if c.labels_agree else ", labels differ")
            for c in wrong
        )
        raise ValueError(
            f"{path} does not equal the network: its logits differ by more than {TOLERANCE:g} of the largest one "
            f"(images: difference: {sizes}). It is kept for inspection only"
        )
