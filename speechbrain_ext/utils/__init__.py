"""Metrics, plots, checkpoints, processes and files."""
