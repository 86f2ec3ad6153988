"""Metrics, prediction tables, calibration and submissions."""
