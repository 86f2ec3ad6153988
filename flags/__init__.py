"""Flags of the scripts: one typed dataclass per group, whose fields are the flags."""
