"""The IPython extension: magics and how replies look."""
