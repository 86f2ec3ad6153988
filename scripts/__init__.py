"""Scripts used less often (python -m scripts.<name>), and the command `ich` for all of them."""
