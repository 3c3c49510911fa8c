"""Embedding extraction and export of trained encoders."""
