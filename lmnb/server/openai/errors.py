"""Errors that only OpenAI's protocols know. Codes as OpenAI spells them."""

from __future__ import annotations

from lmnb.errors import InvalidRequest, NotFound, NotSupported


class UnsupportedParameter(NotSupported):
    """A known field that cannot be honoured."""

    code = "unsupported_parameter"


class UnsupportedValue(NotSupported):
    """A known field with a value that cannot be honoured."""

    code = "unsupported_value"


class InvalidJson(InvalidRequest):
    """The body is not JSON, or not a JSON object."""

    code = "invalid_json"


class MissingParameter(InvalidRequest):
    """A required field is absent or null."""

    code = "missing_required_parameter"


class InvalidType(InvalidRequest):
    """A field has a value of the wrong type."""

    code = "invalid_type"


class InvalidValue(InvalidRequest):
    """A field has the right type and an impossible value."""

    code = "invalid_value"


class PreviousResponseNotFound(InvalidRequest):
    """`previous_response_id` names nothing that is stored. 400, as OpenAI answers."""

    code = "previous_response_not_found"


class ResponseNotFound(NotFound):
    """No stored response has that id."""

    code = "response_not_found"
