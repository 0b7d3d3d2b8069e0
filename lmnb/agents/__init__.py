"""Coding agents that `launch` starts: what each needs to work with a local model.

`targets.py` finds the server and the model, a file per agent says how that one is told of them, and
`command.py` holds the result, to be run or to be printed.
"""
