"""The failure detectors under their public path; they live in `fairl_sk.learning.failures`."""

from .learning.failures import *  # noqa: F403
from .learning.failures import __all__  # noqa: F401
