"""Scores of Cityscapes: semantic, instance, and the files that the test server reads."""
