"""Readers of published checkpoints, and export to other runtimes."""
