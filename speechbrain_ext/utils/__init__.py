"""Metrics, plots and conversion of published checkpoints."""
