"""The warp of a map by a flow: warp.py is what others use, operator.py chooses between the kernels."""

from .warp import OFFICIAL_UNIT, PAPER_UNIT, flow_warp

__all__ = ["OFFICIAL_UNIT", "PAPER_UNIT", "flow_warp"]
