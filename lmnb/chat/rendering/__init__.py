"""Conversations to prompt text, by the model's own template, in a process apart."""
