"""Data sets: one file per data set that registers it, and what they share."""
