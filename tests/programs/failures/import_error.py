"""A package that is not installed."""

import not_installed_pkg  # noqa: F401
