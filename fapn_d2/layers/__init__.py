"""Tensors in, tensors out: no config, no registry, any device. Import from the file that is named for the layer."""
