"""What can fill each hole of the pyramid: thin adapters over ``fapn_d2.layers``, a file a hole.

The file's registry lists the names; importing this package registers them.
"""

from . import align, context, fuse, lateral, merge, output  # noqa: F401
