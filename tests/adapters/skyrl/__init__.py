"""Against the real SkyRL, which needs Python 3.12: pydantic refuses its typing.TypedDict on older ones."""

import sys
import typing

import typing_extensions


def use_typing_extensions():
    """On Python 3.11, the one thing that stands between SkyRL 0.4.0 and its import."""
    if sys.version_info < (3, 12):
        typing.TypedDict = typing_extensions.TypedDict


standard = typing.TypedDict
use_typing_extensions()
import skyrl.backends.skyrl_train.workers.worker  # noqa: E402
import skyrl.train.trainer  # noqa: E402, F401

typing.TypedDict = standard
