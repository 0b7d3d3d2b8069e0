"""Search: an index of a table's rows by vectors and words, exact, and kept as a folder."""

from lmnb.frame.index.answer import Answer
from lmnb.frame.index.index import Index
from lmnb.frame.index.model import OtherModel

__all__ = ["Answer", "Index", "OtherModel"]
