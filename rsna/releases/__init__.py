"""Published networks that become experiments of this project."""
