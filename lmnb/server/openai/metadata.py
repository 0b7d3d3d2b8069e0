"""OpenAI's `metadata`: what clients attach to an object."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
"""At most 16 pairs; keys of up to 64 characters, values of up to 512."""
