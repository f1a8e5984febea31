"""Bottom-up networks that Detectron2 lacks, one family per file. Importing this package registers their builders."""

from . import deep_stem_resnet, df, fixed_statistics, shufflenet_v2, swin, timm_backbone  # noqa: F401  (imported to register)
