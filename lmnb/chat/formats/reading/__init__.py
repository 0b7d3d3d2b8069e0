"""Readers of what models write, one for every way of writing calls and their arguments.

A reader is a generator that reads from a `Source` as if the whole text were there, and yields what
it has found. Where the text is not there yet it yields None, and goes on when there is more.
"""
