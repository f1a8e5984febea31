"""Any network of timm with maps of strides 4 to 32 as a bottom-up network."""

from types import ModuleType

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from ..messages import nearest
from .fixed_statistics import FixedStatistics, batch_norms

STRIDES = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}
NORMS = ("BN", "SyncBN", "EvalBN", "FrozenBN")


class TimmBackbone(FixedStatistics, Backbone):
    """timm's ``features_only`` network; the last map of each stride is named as Detectron2 names a ResNet's.

    Args:
        name: name of a timm model, as in ``timm.list_models()``.
        norm: how batch norms work. "BN": as in timm; "SyncBN": with statistics over all processes; "EvalBN": with fixed
            statistics, while scale and shift are trained; "FrozenBN": with fixed statistics, scale and shift.
        freeze_at: number of stages to freeze, counted as in Detectron2: 1 freezes the layers before stride 4, 2 also
            those of stride 4.
        in_channels: number of channels of the image.
        **options: more arguments of timm's network.

    Parameters are named ``body.*`` and otherwise as in timm.

    Raises:
        ValueError: timm is missing or lacks the network, the network lacks a map of one of the strides 4 to 32, or
            ``norm`` or ``freeze_at`` is unknown or cannot be applied to the network.
    """

    def __init__(self, name: str, *, norm: str = "BN", freeze_at: int = 0, in_channels: int = 3, **options):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"MODEL.TIMM.NORM: unknown value {norm!r}; allowed: {', '.join(NORMS)}")
        indices = feature_indices(name)
        # Swin is built for one size of image and takes others only when told so.
        if name.startswith(("swin_", "swinv2_")) and "_cr_" not in name:
            options = {"strict_img_size": False} | options
        self.body = import_timm().create_model(
            name, features_only=True, pretrained=False, in_chans=in_channels, out_indices=indices, **options
        )
        self._channels_last = str(getattr(self.body, "output_fmt", "")).endswith("NHWC")
        channels = self.body.feature_info.channels()
        self._out_features = list(STRIDES.values())
        self._out_feature_strides = dict(zip(self._out_features, STRIDES))
        self._out_feature_channels = dict(zip(self._out_features, channels))
        if norm == "SyncBN":
            self.body = import_timm().layers.convert_sync_batchnorm(self.body)
        self._apply_norm(name, norm, self._freeze(name, freeze_at))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N,3,H,W) -> {"res2": (N,C,H/4,W/4), ...}."""
        maps = self.body(x)
        if self._channels_last:
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return dict(zip(self._out_features, maps))

    def _freeze(self, name: str, freeze_at: int) -> set[nn.Module]:
        """Freeze the parameters up to the map of stride 2^freeze_at; timm registers modules in running order."""
        if freeze_at <= 0:
            return set()
        # Feature networks join the names of containers by "_" where timm's own records have ".".
        stage = self.body.feature_info.module_name()[max(0, min(freeze_at, 5) - 2)].replace(".", "_")
        modules = [(name.replace(".", "_"), module) for name, module in self.body.named_modules()]
        inside = [i for i, (path, _) in enumerate(modules) if f"{path}_".startswith(f"{stage}_")]
        if not inside:
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT = {freeze_at}: {name} does not have one module per map, so it is not "
                "known what to freeze; set it to 0"
            )
        frozen = {module for _, module in modules[: inside[0] if freeze_at == 1 else inside[-1] + 1]}
        for parameter in (p for module in frozen for p in module.parameters(recurse=False)):
            parameter.requires_grad_(False)
        return frozen

    def _apply_norm(self, name: str, norm: str, frozen: set[nn.Module]) -> None:
        norms = batch_norms(self.body)
        if not norms and norm != "BN":
            raise ValueError(f"MODEL.TIMM.NORM = {norm!r}, but {name} has no batch normalisation; leave it at 'BN'")
        everywhere = norm in ("EvalBN", "FrozenBN")
        self.fixed_norms = tuple(m for m in norms if everywhere or m in frozen)
        for parameter in (p for m in norms if norm == "FrozenBN" for p in m.parameters()):
            parameter.requires_grad_(False)
        self.train(self.training)


def import_timm() -> ModuleType:
    """The package, or a ValueError that says how to get it."""
    try:
        import timm
    except ImportError as error:
        raise ValueError('bottom-up networks of timm need the package timm: pip install "fapn_d2[timm]"') from error
    return timm


def feature_indices(name: str) -> tuple[int, ...]:
    """Indices of the last map of each of the strides 4, 8, 16 and 32.

    Raises:
        ValueError: the network is unknown (the message has similar names), or a stride is missing.
    """
    timm = import_timm()
    architecture = name.split(".")[0]  # what follows the dot names a set of weights
    if not timm.is_model(architecture):
        hint = nearest(architecture, timm.list_models())
        raise ValueError(f"MODEL.TIMM.NAME: timm {timm.__version__} has no model {name!r}{hint}")
    with torch.device("meta"):
        strides = timm.create_model(architecture, features_only=True, pretrained=False).feature_info.reduction()
    missing = [s for s in STRIDES if s not in strides]
    if missing:
        raise ValueError(
            f"MODEL.TIMM.NAME: {name} has maps of strides {strides}, but a pyramid needs 4, 8, 16 and 32; choose a "
            "network with a map of each"
        )
    return tuple(len(strides) - 1 - strides[::-1].index(s) for s in STRIDES)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """MODEL.NECK.BOTTOM_UP: the network MODEL.TIMM.NAME, with maps "res2" to "res5"."""
    return TimmBackbone(
        cfg.MODEL.TIMM.NAME,
        norm=cfg.MODEL.TIMM.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        in_channels=input_shape.channels,
    )
