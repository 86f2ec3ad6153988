"""Slices of a dataset: table, store, folds, series, pixel steps, leakage."""
