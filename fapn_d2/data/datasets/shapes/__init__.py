"""The embedded data set "shapes": textured objects on sky, grass and sand, generated and seeded.

Six kinds of objects, from a few pixels to half the image, thin ones among them, hide each other in a known order. The
labels are exact and come in COCO's official formats. It is small, so that it trains on a CPU: 200 and 40 images of
160 x 192 pixels (H x W) with eight objects each.
"""

from .generate import generate_shapes
from .register import register_shapes

__all__ = ["generate_shapes", "register_shapes"]
