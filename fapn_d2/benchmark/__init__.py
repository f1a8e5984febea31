"""Time and memory, always beside an alternative in the same run."""
