"""Loading: the Pipeline that MODULE:APP names, out of the user's own code.

Whatever that code does wrong ends in one line that says where, not in a traceback of ours.
"""

import importlib
import linecache
import sys
import traceback
from pathlib import Path
from types import TracebackType

from consumers.app import Pipeline
from pipeline.errors import MillstreamError, NotFoundError, UsageError

DEFAULT_NAME = "app"
_OURS = (__file__, importlib.__file__)


class AppError(UsageError):
    """The user's module raised while it was imported."""


def load_app(target: str) -> Pipeline:
    """The Pipeline named MODULE:APP, or the `app` of MODULE. The current folder is looked in first.

    Raises:
        NotFoundError: no such module, or no such name in it. UsageError: that name is no Pipeline, or the module
            raised while it was imported.
    """
    module_name, _, name = target.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        guess = Path(module_name).with_suffix("").as_posix().strip("./").replace("/", ".")
        error = UsageError(f"{target!r} names a file: name the module, {guess}:{name or DEFAULT_NAME}")
        raise error
    if not all(part.isidentifier() for part in module_name.split(".")) or (name and not name.isidentifier()):
        raise UsageError(f"{target!r} is not MODULE:APP, such as shop.workers:app")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = _imported(module_name)
    names = [key for key, value in vars(module).items() if isinstance(value, Pipeline)]
    if not name and DEFAULT_NAME not in names and len(names) == 1:
        name = names[0]
    name = name or DEFAULT_NAME
    if not hasattr(module, name):
        has = f"; it has {', '.join(sorted(names))}" if names else ": it has no Pipeline"
        raise NotFoundError(f"module {module_name!r} has no {name!r}{has}")
    app = getattr(module, name)
    if not isinstance(app, Pipeline):
        raise UsageError(f"{module_name}:{name} is of type {type(app).__name__}, not a Pipeline")
    return app


def _imported(module_name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            where = f"there is no module {error.name!r} in {Path.cwd()}, nor among the installed ones"
            raise NotFoundError(where) from None
        raise _app_error(module_name, error) from error
    except MillstreamError as error:  # a declaration that cannot be: its own words say it best
        raise _app_error(module_name, error) from error
    except (Exception, SystemExit) as error:
        raise _app_error(module_name, error) from error


def _app_error(module_name: str, error: BaseException) -> AppError:
    said = str(error).strip().split("\n")[0]
    if isinstance(error, SyntaxError):
        said = error.msg
        place = f"{_short(error.filename or module_name)}, line {error.lineno}"
        line = (error.text or "").strip()
    else:
        file, number = _last_own_frame(module_name, error.__traceback__)
        place, line = f"{_short(file)}, line {number}", linecache.getline(file, number).strip()
    what = type(error).__name__ + (f": {said}" if said else "")
    return AppError(f"module {module_name!r} raises {what} ({place}: {line})")


def _last_own_frame(module_name: str, trace: TracebackType | None) -> tuple[str, int]:
    """File and line of the last frame in the user's own code: beneath the current folder, or at least not frozen."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(trace)]
    theirs = [frame for frame in frames if not frame[0].startswith("<") and frame[0] not in _OURS]
    folder = Path.cwd()
    own = [f for f in theirs if folder in Path(f[0]).parents and "site-packages" not in Path(f[0]).parts]
    return (own or theirs or [(module_name, 0)])[-1]


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if Path.cwd() in path.parents else file
