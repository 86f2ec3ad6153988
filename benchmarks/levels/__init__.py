"""Measure the gain of one slice, three slices, the sequence and a blend, on phantoms."""
