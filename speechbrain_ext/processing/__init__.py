"""Scoring, score normalisation and calibration."""
