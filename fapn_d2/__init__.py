"""FaPN, AugFPN, SFNet, FPN and Panoptic FPN as one feature pyramid for Detectron2.

Importing this package registers everything with Detectron2; ``add_fapn_config(cfg)`` adds the keys to a config.
"""

import warnings

try:
    import detectron2
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "fapn_d2 needs Detectron2, which is not installed: build it from its Git repository (v0.6 or later), or run "
        "`make install` in the checkout of fapn_d2, which installs it as a wheel without a compiler.",
        name="detectron2",
    ) from error

with warnings.catch_warnings():  # both script functions as they are imported, which torch now calls deprecated
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    import detectron2.modeling  # noqa: F401
    import fvcore.nn  # noqa: F401

from . import backbones, data, heads, meta_arch, necks  # noqa: F401  (imported to register)
from .checkpoint import timm_weights  # noqa: F401  (imported to register)
from .config.keys import add_fapn_config
from .version import __version__

__all__ = ["__version__", "add_fapn_config"]
