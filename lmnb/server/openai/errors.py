"""The errors of OpenAI's protocols. Codes as OpenAI spells them."""

from __future__ import annotations

from lmnb.errors import InvalidRequest, NotFound, NotSupported
from lmnb.server.errors import InvalidJson, InvalidType, InvalidValue, MissingParameter

__all__ = [
    "ConversationNotFound",
    "InvalidJson",
    "InvalidType",
    "InvalidValue",
    "ItemNotFound",
    "MissingParameter",
    "PreviousResponseNotFound",
    "ResponseNotFound",
    "UnsupportedParameter",
    "UnsupportedValue",
]


class UnsupportedParameter(NotSupported):
    """A known field that cannot be honoured."""

    code = "unsupported_parameter"


class UnsupportedValue(NotSupported):
    """A known field with a value that cannot be honoured."""

    code = "unsupported_value"


class PreviousResponseNotFound(InvalidRequest):
    """`previous_response_id` names nothing that is stored. 400, as OpenAI answers."""

    code = "previous_response_not_found"


class ResponseNotFound(NotFound):
    """No stored response has that id."""

    code = "response_not_found"


class ItemNotFound(NotFound):
    """No stored item has that id."""

    code = "item_not_found"


class ConversationNotFound(NotFound):
    """No conversation has that id."""

    code = "conversation_not_found"
