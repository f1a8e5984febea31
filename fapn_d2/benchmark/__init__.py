"""Time and memory, always compared with an alternative in the same run."""
