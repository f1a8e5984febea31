"""The official modules' arrays, and our head filled with their weights."""

import json

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec

from fapn_d2.checkpoint.keys.maskformer import maskformer_state_to_ours
from fapn_d2.config.keys import add_fapn_config
from fapn_d2.heads.mask_former import MaskFormerHead

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def load(folder, name):
    """(settings, {name: tensor}) of one file; half-precision numbers in float64."""
    with np.load(folder / "maskformer" / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files if file[key].dtype.kind in "fiu"}
        texts = {key: json.loads(str(file[key])) for key in file.files if file[key].dtype.kind == "U"}
    tensors = {k: torch.as_tensor(v.astype(np.float64) if v.dtype == np.float16 else v) for k, v in arrays.items()}
    return texts.pop("meta"), tensors | texts


def below(arrays, prefix):
    """The entries under ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def head_config(meta):
    """A config of the head that ``meta`` describes."""
    cfg = get_cfg()
    add_fapn_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = list(STRIDES)
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = meta["conv_dim"]
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = meta["mask_dim"]
    cfg.MODEL.SEM_SEG_HEAD.NORM = meta["norm"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = meta["num_classes"]
    if meta["pixel_decoder"] == "fapn":
        cfg.MODEL.NECK.ALIGN = "deform"
    node = cfg.MODEL.MASK_FORMER
    node.HIDDEN_DIM, node.NUM_OBJECT_QUERIES, node.NHEADS = meta["hidden_dim"], meta["num_queries"], meta["nheads"]
    node.DIM_FEEDFORWARD, node.DEC_LAYERS, node.DROPOUT = meta["dim_feedforward"], meta["dec_layers"], 0.0
    return cfg


def head_with_weights(meta, arrays):
    """Our head in float64 with the official weights, loaded strictly."""
    shapes = {name: ShapeSpec(channels=c, stride=STRIDES[name]) for name, c in zip(STRIDES, meta["channels"])}
    head = MaskFormerHead(head_config(meta), shapes).double()
    official = {f"sem_seg_head.{key}": value for key, value in below(arrays, "sd/").items()}
    ours = below(maskformer_state_to_ours(official), "sem_seg_head.")
    head.load_state_dict(ours, strict=True)
    return head
