"""Conversations to prompt text and back: templates, events. Never HTTP."""
