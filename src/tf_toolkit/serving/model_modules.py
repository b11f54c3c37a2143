"""Imports the user's code: as a script's own, or apart from the code of other models in the same process.

On a server of many models, each model's ``inference.py`` and the modules beside it have names of their own, though
Python has one table of modules: they stand in it only while the model's code imports something. An ``import`` in a
function of theirs finds them too, at any later time; ``importlib.import_module`` there does not, nor does ``pickle``.
Nor do threads that the code starts and waits for while it is being imported: those hang over modules of its own.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib.util
import io
import linecache
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

from tf_toolkit.errors import ExecuteUserScriptError
from tf_toolkit.serving.model_code import ModelCode

log = logging.getLogger("tf_toolkit")

_LOCK = threading.RLock()


def load(code: ModelCode, apart: bool) -> ModuleType:
    """The program's module. Where it cannot be imported raises ExecuteUserScriptError; the log has the traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a handler prints is to be seen when it is printed.
        sys.stdout.reconfigure(line_buffering=True)
    # The code's folder may be the user's own, mounted.
    sys.dont_write_bytecode = True
    try:
        return _Apart(code).load() if apart else _load_plainly(code)
    except (Exception, SystemExit) as error:
        log.error("%s cannot be imported", code.program, exc_info=True)
        fault = ExecuteUserScriptError(f"{code.program} cannot be imported: {_reason(error, code)}")
    # Not from the error, which holds all that the code has made so far.
    raise fault


def forget(code: ModelCode) -> None:
    """Give back what Python keeps of code that was loaded apart, when nothing refers to its modules any more."""
    inside = f"{code.directory}/"
    caches: tuple[dict[str, Any], ...] = (sys.path_importer_cache, linecache.cache)
    for cache in caches:
        for name in [name for name in list(cache) if f"{name}/".startswith(inside)]:
            cache.pop(name, None)
    # Functions and their modules hold one another.
    gc.collect()


def _reason(error: BaseException, code: ModelCode) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, ModuleNotFoundError):
        return f"{said}; name what holds it in {code.directory / 'requirements.txt'}, or put it into the code"
    return said


def _load_plainly(code: ModelCode) -> ModuleType:
    sys.path[:0] = [str(path) for path in code.import_paths if str(path) not in sys.path]
    name = _name(code)
    spec = importlib.util.spec_from_file_location(name, code.program)
    return _executed(name, spec)


def _name(code: ModelCode) -> str:
    """As an import would have it, unless another module is called so."""
    name = code.program.stem.replace(".", "_")
    return name if name not in sys.modules else f"handlers_{name}"


def _executed(name: str, spec: ModuleSpec | None) -> ModuleType:
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for it there, and pickles, as long as it is being imported.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


class _Apart:
    """The modules of one model, and the finder and the ``import`` that they know one another by."""

    def __init__(self, code: ModelCode) -> None:
        self._code = code
        self._paths = [str(path) for path in code.import_paths]
        self._inside = f"{code.directory}/"
        self._modules: dict[str, ModuleType] = {}
        # Whether a module of that name is the model's, for names without a dot.
        self._known: dict[str, bool] = {}
        self._in_place = False
        self.builtins = {**vars(builtins), "__import__": self._import}

    def load(self) -> ModuleType:
        with self._put_in_place():
            name = _name(self._code)
            program = str(self._code.program)
            loader = _Loader(self, name, program)
            return _executed(name, importlib.util.spec_from_file_location(name, program, loader=loader))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As a finder of ``sys.meta_path``: Python's own, for files of the model."""
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not self._is_inside(spec):
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(self, fullname, spec.loader.path)
        return spec

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """What ``import`` does in the model's modules."""
        if level == 0 and not self._is_ours(name.partition(".")[0]):
            return builtins.__import__(name, globals, locals, fromlist, level)
        with self._put_in_place():
            return builtins.__import__(name, globals, locals, fromlist, level)

    def _is_ours(self, name: str) -> bool:
        known = self._known.get(name)
        if known is None:
            # A thread that this model's code has started, and waits for, while it is imported has not the lock.
            with contextlib.nullcontext() if self._in_place else _LOCK:
                # What the server has imported already is not had twice: numpy, for one, cannot be.
                there = sys.modules.get(name)
                found = PathFinder.find_spec(name, self._paths) if there is None else getattr(there, "__spec__", None)
                known = name in self._modules or (found is not None and self._is_inside(found))
                self._known[name] = known
        return known

    @contextlib.contextmanager
    def _put_in_place(self) -> Iterator[None]:
        """Within, Python's table has the model's modules, and its path the model's folders."""
        with _LOCK:
            if self._in_place:
                yield
                return
            displaced = {name: sys.modules[name] for name in self._modules if name in sys.modules}
            sys.modules.update(self._modules)
            before = set(sys.modules)
            sys.path[:0] = self._paths
            sys.meta_path.insert(sys.meta_path.index(PathFinder), self)
            self._in_place = True
            try:
                yield
            finally:
                self._in_place = False
                sys.meta_path.remove(self)
                self._keep(set(sys.modules) - before)
                for name in self._modules:
                    sys.modules.pop(name, None)
                sys.modules.update(displaced)

    def _keep(self, new: set[str]) -> None:
        """Of the modules that came, and of what the code did to the path, what is the model's."""
        for name in new:
            module = sys.modules[name]
            spec = getattr(module, "__spec__", None)
            if spec is not None and self._is_inside(spec):
                self._modules[name] = module
        added = [path for path in sys.path if path.startswith(self._inside) and path not in self._paths]
        sys.path[:] = [path for path in sys.path if path not in self._paths and path not in added]
        self._paths += added

    def _is_inside(self, spec: ModuleSpec) -> bool:
        # A folder without __init__.py has no file, only places where it looks.
        places = [spec.origin or "", *(spec.submodule_search_locations or ())]
        return any(place.startswith(self._inside) for place in places)


class _Loader(SourceFileLoader):
    """Gives a module the model's ``import``."""

    def __init__(self, apart: _Apart, name: str, path: str) -> None:
        super().__init__(name, path)
        self._apart = apart

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._apart.builtins
        super().exec_module(module)
