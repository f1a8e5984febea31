"""Data sets: one file per data set, which registers it, and the code that they share."""
