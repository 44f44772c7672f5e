"""Warnings that point at the user's own line of code; modules that warn from nested calls use it."""

import sys
import warnings

_INSIDE = ("fairl_sk", "sklearn", "joblib")


def warn_user(message, category=UserWarning):
    """Issue a warning at the line that called this package or scikit-learn, which runs fits by joblib."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
