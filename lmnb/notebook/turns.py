"""The messages of a conversation, in no API's words: each API's module translates them."""

from __future__ import annotations

import base64
from typing import NamedTuple, NotRequired, TypedDict


class Picture(NamedTuple):
    """An image, as it is sent: `media_type` such as "image/png"."""

    media_type: str
    data: bytes

    @property
    def base64(self) -> str:
        """As JSON can hold it."""
        return base64.b64encode(self.data).decode()

    @property
    def url(self) -> str:
        """As a data URL."""
        return f"data:{self.media_type};base64,{self.base64}"


class Call(TypedDict):
    """A call of a tool, as the model wrote it. `arguments` is JSON."""

    id: str
    name: str
    arguments: str


class Turn(TypedDict):
    """One message.

    `role` is "user", "assistant" or "tool"; a tool's has the result of the call `call_id`, `failed`
    if that went wrong. `thinking` and its `signature` are kept where calls follow: the model goes
    on with it when it has the results.
    """

    role: str
    content: str
    images: NotRequired[list[Picture]]
    calls: NotRequired[list[Call]]
    thinking: NotRequired[str]
    signature: NotRequired[str]
    call_id: NotRequired[str]
    failed: NotRequired[bool]
