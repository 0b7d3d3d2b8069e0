"""Inputs of custom tools under a Lark grammar: the grammar, rewritten as a model writes the text."""
