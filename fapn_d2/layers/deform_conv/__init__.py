"""The modulated deformable convolution: module.py is what others use, operator.py chooses between the kernels."""

from .module import ModulatedDeformConv2d, modulated_deform_conv2d, set_backend

__all__ = ["ModulatedDeformConv2d", "modulated_deform_conv2d", "set_backend"]
