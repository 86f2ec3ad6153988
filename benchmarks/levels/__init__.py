"""What one slice, three slices, the sequence and a blend gain, on phantoms."""
