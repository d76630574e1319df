"""Exceptions for problems that a user can cause, as one tree.

* PalmtopError                 a problem that a user can cause; the command line prints it and exits with 2
  x CheckpointError            missing shard, tensor or config key; wrong shape; non-finite weights
  x UnsupportedModelError      no architecture file for this model_type
  x QuantizeError              (also ValueError) a scheme or a tensor that cannot be quantised
  x BundleError                the manifest or a file of a bundle is wrong
    + ManifestError            a value of bundle.json is wrong; has a code and a path
    + BundleVersionError       the bundle was written by a newer palmtop
  x InputError                 prompt, image, audio or option not usable
    + OptionError              the value of one option
    + PromptTooLongError       the prompt has more tokens than the context
  x MemoryPlanError            the session does not fit into the available memory
  x RuntimeMissingError        an extra is not installed; the message holds the pip command

A message is one sentence: what, where, found, expected. Anything else that is raised is our bug.
"""

from __future__ import annotations


class PalmtopError(Exception):
    """Base of all exceptions for problems that a user can cause."""


class CheckpointError(PalmtopError):
    """A checkpoint lacks a tensor, file or key, or contains an impossible value."""


class UnsupportedModelError(PalmtopError):
    """No architecture file exists for the checkpoint's model_type."""


class QuantizeError(PalmtopError, ValueError):
    """A quantisation scheme or the tensor given to it is not usable."""


class BundleError(PalmtopError):
    """A bundle's manifest or one of its files is wrong."""


class ManifestError(BundleError):
    """A value of bundle.json is wrong.

    Attributes:
        code: "missing", "unknown", "type", "range", "choice" or "value".
        path: place of the value, such as ``decoder.states[0].shape``; empty for the whole file.
    """

    def __init__(self, message: str, code: str, path: str) -> None:
        super().__init__(message)
        self.code = code
        self.path = path


class BundleVersionError(BundleError):
    """The bundle's schema is newer than this palmtop."""


class InputError(PalmtopError):
    """A prompt, an image, a sound or an option is not usable."""


class OptionError(InputError):
    """The value of one option is not usable.

    Args:
        option: its name in Python; the command line prints its flag instead.
        reason: sentence on the value found and the expected one.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"option {option}: {reason}")
        self.option = option
        self.reason = reason


class PromptTooLongError(InputError):
    """A prompt has more tokens than the session's context."""


class MemoryPlanError(PalmtopError):
    """The session asked for does not fit into memory."""


class RuntimeMissingError(PalmtopError):
    """An optional dependency is not installed."""
