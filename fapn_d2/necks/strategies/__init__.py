"""The strategies for each part of the pyramid: thin adapters over ``fapn_d2.layers``, one file per part.

Importing this package registers them. The registry that a file imports lists their names. To add a strategy, write a
function as in these files and register it; ``parts.py`` says what it must return.
"""

from . import align, context, fuse, lateral, merge, output  # noqa: F401
