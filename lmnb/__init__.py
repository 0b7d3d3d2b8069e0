"""lmnb: LM Studio for notebooks."""

__version__ = "0.1.0"
