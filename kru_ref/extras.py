"""Packages that only some of kru_ref needs."""

import importlib
from types import ModuleType


def require(package: str, extra: str) -> ModuleType:
    """Import a package, or say which extra installs it.

    Raises
    ------
    ImportError
        It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"this needs the package {package}: pip install 'kru_ref[{extra}]'"
        ) from error
