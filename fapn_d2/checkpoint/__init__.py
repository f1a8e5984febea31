"""Weights on disk: saving, safe reading, fitting them to a network, and converting names."""
