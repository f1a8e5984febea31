"""Parameters and operations of a config's network, for each module."""

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import SemanticSegmentor
from tabulate import tabulate

from ..meta_arch.mask_former import MaskFormer, PanopticMaskFormer
from .complexity import Complexity, count_flops


@dataclass(frozen=True)
class Analysis:
    """The size of a network; the numbers of a module contain those of its children."""

    parameters: dict[str, int]  #: by module; "" is the whole network
    trainable: int
    complexity: Complexity

    def table(self, depth: int) -> str:
        """Modules with fewer than ``depth`` dots in their names, then the sums.

        Columns: parameters, billions of operations (G), their share, billions of elements of convolutions' outputs.
        """
        total, flops = self.parameters[""], self.complexity
        rows = []
        for name, count in self.parameters.items():
            operations = flops.by_module.get(name, 0)
            if name and name.count(".") < depth and (count or operations):
                share = f"{operations / max(flops.total, 1):.1%}"
                maps = f"{flops.activations_by_module.get(name, 0) / 1e9:.3f}"
                rows.append((name, f"{count:,}", f"{operations / 1e9:.3f}", share, maps))
        rows.append(("all", f"{total:,}", f"{flops.total / 1e9:.3f}", "", f"{flops.activations / 1e9:.3f}"))
        heads = ("module", "parameters", "G", "share", "G activations")
        table = tabulate(rows, heads, colalign=("left", *["right"] * 4), disable_numparse=True)
        return f"{table}\n{self.trainable:,} parameters are trained, {flops.parameters:,} are read in inference"


def analyze(cfg: CfgNode, *, size: tuple[int, int], convention: str = "macs") -> Analysis:
    """Build the network of ``cfg`` and run it once on an image of ``size`` (height, width), in evaluation.

    Networks that only segment are built and run on the meta device, which needs neither memory nor time. Detectors need
    numbers to choose regions: they run on the CPU with random weights and the regions found by these.

    Raises:
        ValueError: ``size`` is not positive, or as ``count_flops``.
    """
    if min(size) < 1:
        raise ValueError(f"the image must have a positive height and width in pixels, got {size[0]} x {size[1]}")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    image = torch.zeros(3, *size)
    if not isinstance(model, (SemanticSegmentor, MaskFormer)) or isinstance(model, PanopticMaskFormer):
        cfg.MODEL.DEVICE = "cpu"
        model = build_model(cfg)
        image = torch.randint(0, 256, (3, *size)).float()
    return Analysis(
        parameters={name: sum(p.numel() for p in module.parameters()) for name, module in model.named_modules()},
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        complexity=count_flops(model.eval(), [{"image": image}], convention=convention),
    )
