"""Files as tables of text: `lmnb.read_docs`."""

from lmnb.frame.documents.read import read_docs

__all__ = ["read_docs"]
