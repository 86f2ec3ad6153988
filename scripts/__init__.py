"""Scripts used less often: python -m scripts.<name>."""
