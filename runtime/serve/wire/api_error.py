"""OpenAI's error object and status for each error."""

from __future__ import annotations

from typing import Any

from palmtop.errors import InputError, MemoryPlanError, PalmtopError, PromptTooLongError, RuntimeMissingError

RETRY_S = 5


class ApiError(Exception):
    """A request that is refused with a status.

    Args:
        status: HTTP status.
        message: one sentence.
        code: code for programs.
        param: name of the wrong field.
        retry_after_s: seconds until another try may succeed; sent as ``Retry-After``.
        headers: other headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["retry-after"] = str(retry_after_s)

    @property
    def kind(self) -> str:
        """Value of OpenAI's ``type`` field."""
        if self.status >= 500:
            return "server_error"
        return "permission_error" if self.status == 403 else "invalid_request_error"  # of a wrong key too

    def body(self) -> dict[str, Any]:
        """Return the error as JSON."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def api_error(error: Exception) -> ApiError:
    """Return the answer to an error of any kind; an internal one reveals nothing to the client."""
    if isinstance(error, ApiError):
        return error
    message = " ".join(str(error).split())
    if isinstance(error, PromptTooLongError):
        return ApiError(400, message, code="context_length_exceeded", param="messages")
    if isinstance(error, (InputError, RuntimeMissingError)):
        return ApiError(400, message, code="invalid_value")
    if isinstance(error, MemoryPlanError):
        return ApiError(503, message, code="insufficient_memory", retry_after_s=RETRY_S)
    if isinstance(error, PalmtopError):
        return ApiError(500, message, code="model_error")
    return ApiError(500, "the server failed on this request; its log says why", code="internal_error")


def refused(param: str, found: object, expected: str, code: str = "invalid_value") -> ApiError:
    """Return the error for a field with an invalid value."""
    text = repr(found) if isinstance(found, (str, int, float, bool, type(None))) else type(found).__name__
    return ApiError(400, f"{param}: found {text:.60}, expected {expected}", code=code, param=param)
