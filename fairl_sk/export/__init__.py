from .function import *  # noqa: F403
from .function import __all__  # noqa: F401
