"""The compiled part of the `cel` package, without its command line.

`import cel` also imports that command line (prompt_toolkit, rich, typer), which was two fifths of this server's whole
start-up time. The extension module alone does the work.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from types import ModuleType


def _load() -> ModuleType:
    name = "cel.cel"
    if name in sys.modules:
        return sys.modules[name]
    package = importlib.util.find_spec("cel")
    places = list(package.submodule_search_locations or ()) if package else []
    spec = importlib.machinery.PathFinder.find_spec(name, places)
    if spec is None or spec.loader is None:
        return importlib.import_module("cel")  # laid out otherwise: take the slow way
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a later `import cel` must find this one: it cannot be loaded twice
    spec.loader.exec_module(module)
    return module


cel = _load()
