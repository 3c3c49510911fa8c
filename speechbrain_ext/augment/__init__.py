"""Augmentation of waveforms, drawn from seeds."""
