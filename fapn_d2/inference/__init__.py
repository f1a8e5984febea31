"""A trained network at work: from config and weights to predictions."""
