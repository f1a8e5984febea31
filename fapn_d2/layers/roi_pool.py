"""RoI pooling under autocast on the CPU: torchvision registers its kernel for autocast on CUDA only."""

import torch
import torchvision  # noqa: F401  (defines the operator)


def register() -> None:
    """Let ``torchvision::roi_pool`` compute in float32 under autocast on the CPU, as it does on CUDA.

    Without it the operator refuses maps of half precision, because the boxes are float32. It is a registration with
    PyTorch's dispatcher, which is done once per process.
    """
    if hasattr(torch.library, "register_autocast"):
        torch.library.register_autocast("torchvision::roi_pool", "cpu", torch.float32)


register()
