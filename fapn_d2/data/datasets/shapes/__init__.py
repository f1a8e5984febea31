"""The embedded data set "shapes": textured objects on sky, grass and sand, generated and seeded.

There are six kinds of objects, some of them thin, from a few pixels to half of the image; they hide each other in a
known order. The labels are exact, in COCO's official formats. The data set is small, so that networks can be trained on
it on a CPU: 200 and 40 images of 160 x 192 pixels (H x W) with about eight objects each.
"""

from .generate import generate_shapes
from .register import register_shapes

__all__ = ["generate_shapes", "register_shapes"]
