"""Losses, classifiers, pooling and schedulers."""
