"""The warp of a map by a flow field. Others use warp.py; operator.py chooses between the kernels."""
