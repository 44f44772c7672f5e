"""Optional dependencies: imported where they are used, with an error that names the extra to install."""

from importlib import import_module

__all__ = ["import_extra"]


def import_extra(module, extra, user):
    """Import a module that one of the package's extras brings.

    Parameters
    ----------
    module : str
        Its name.
    extra : str
        The extra that installs it, such as "text".
    user : str
        What needs it, for the error.

    Returns
    -------
    module : module

    Raises
    ------
    ImportError
        If it cannot be imported. The message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{user} needs {module}, which cannot be imported here ({error}). "
            f"Run pip install -c constraints.txt 'fairl-sk[{extra}]'."
        ) from error
