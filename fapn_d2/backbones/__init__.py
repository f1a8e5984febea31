"""Bottom-up networks that Detectron2 lacks, a family a file. Importing this package registers their builders."""

from . import deep_stem_resnet, df, shufflenet_v2  # noqa: F401  (imported to register)
