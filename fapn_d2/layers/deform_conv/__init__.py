"""The modulated deformable convolution. Others use module.py; operator.py chooses between the kernels."""
