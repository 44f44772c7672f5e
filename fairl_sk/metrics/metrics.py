"""Old path of `fairl_sk.metrics`, until audit and learning import from the room itself."""

from . import *  # noqa: F403
