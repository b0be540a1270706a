"""Hides from a process what the package does not require and what takes seconds to import; on PYTHONPATH, Python runs it."""

import sys
from importlib.machinery import PathFinder

HIDDEN = ("torch", "pandas")


class AllButHidden(PathFinder):
    """Finds what the usual finder finds, but for these."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname in HIDDEN else super().find_spec(fullname, path, target)


sys.meta_path[:] = [AllButHidden if finder is PathFinder else finder for finder in sys.meta_path]
