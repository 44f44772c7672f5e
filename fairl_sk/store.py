"""The embedding store under its public path; it lives in `fairl_sk.features.store`."""

from .features.store import *  # noqa: F403
from .features.store import __all__  # noqa: F401
