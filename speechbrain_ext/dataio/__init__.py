"""Manifests, trials, crops and audio."""
