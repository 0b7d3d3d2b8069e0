"""LM Studio's native REST API."""
