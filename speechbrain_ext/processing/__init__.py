"""Scoring, score normalization and calibration."""
