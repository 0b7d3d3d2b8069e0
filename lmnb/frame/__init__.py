"""Tables: `import lmnb.frame` (or `%load_ext lmnb`) gives pandas' tables and columns `.lm`.

`df.lm.map("Classify {title}", …)` and its kin ask a local model about each row, `series.lm.embed()`
makes vectors of texts. A table in memory goes over one connection to the server, which has as many
requests under way as the model computes together, behind everything that people wait for.
"""

from lmnb.frame.accessor import FrameAccessor, SeriesAccessor, register
from lmnb.frame.index import Index

__all__ = ["FrameAccessor", "Index", "SeriesAccessor"]

register()
