"""Optional dependencies: imported where they are used, with an error that names the extra to install."""

from importlib import import_module


def import_extra(module, extra, user):
    """Import a module that an extra of this package installs; an ImportError says what needs it, and the extra."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{user} needs {module}, which cannot be imported here ({error}). Run {install_command(extra)}."
        ) from error


def install_command(extra):
    """The command that installs an extra of this package."""
    return f"pip install -c constraints.txt 'fairl-sk[{extra}]'"
