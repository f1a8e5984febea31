"""Inference: from a config and trained weights to predictions."""
