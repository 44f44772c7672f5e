from .readers import *  # noqa: F403
from .readers import __all__  # noqa: F401
