"""Readers of published checkpoints, a file a family."""
