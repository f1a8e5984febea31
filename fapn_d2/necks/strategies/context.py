"""CONTEXT: what is computed from the coarsest bottom-up map beside, or instead of, its lateral."""

from ..registry import CONTEXTS


@CONTEXTS.register
def none(level, neck):
    """FPN, FaPN: nothing."""
    return None
