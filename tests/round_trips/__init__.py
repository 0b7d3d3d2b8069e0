"""Conversations that templates write and readers have to read back: the same for every template.

`cases` has what is said, `family` what a template writes for it, `played` reads it back through the
real engine.
"""
