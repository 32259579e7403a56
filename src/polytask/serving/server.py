"""From checkpoint folders to a server that runs until it is told to stop."""

import gc
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.errors import ConfigError, MissingExtra
from polytask.interop.atomic import verify
from polytask.serving.log import start_log
from polytask.serving.settings import Settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from polytask.serving.shelf import Loaded


def serve(
    paths: Mapping[str, str], *, host: str, port: int, settings: Settings, loading: Mapping[str, Any],
    started: Callable[[str, Mapping[str, str]], None],
) -> None:  # fmt: skip
    """Serves the models of these folders by their names until SIGTERM or SIGINT; `started` is told the address and,
    by their names, what the models hold in memory, when requests are welcome. loading: words of `Model.load`, of which
    `draft` is a mapping from names; models that draw by diffusion and CLIPs take its dtype.

    Raises CheckpointError, ConfigError where the port is taken, MissingExtra.
    """
    listener = listen(host, port)
    try:
        with ThreadPoolExecutor(1) as loader:
            loaded = loader.submit(load, paths, loading)
            _import_web()  # meanwhile; what imports torch comes afterwards, for two threads at once break it
            app = _app(loaded.result(), settings)
        settle()
        run(app, listener, lambda address: started(address, app.state.shelf.held()))
    finally:
        listener.close()


def run(app: "Starlette", listener: socket.socket, started: Callable[[str], None]) -> None:
    """Runs an app at a socket until SIGTERM or SIGINT; `started` is told the address."""
    from polytask.serving.lasting import Lasting

    start_log()
    name, number = listener.getsockname()[:2]
    address = f"http://{f'[{name}]' if ':' in name else name}:{number}"
    Lasting(app, lambda: started(address)).run(sockets=[listener])


def load(paths: Mapping[str, str], loading: Mapping[str, Any]) -> "dict[str, Loaded]":
    """The models of these folders; loading: as of `serve`. Raises CheckpointError."""
    drafts = loading["draft"] or {}
    # Sums are made while torch is imported: that thread needs no interpreter.
    with _unswept(), ThreadPoolExecutor(1) as checker:
        folders = {name: _summed(path) for name, path in paths.items()}
        checks = [checker.submit(verify, folder) for folder in folders.values() if folder is not None]
        from polytask import runtime

        runtime.prepare(keep_memory=False, huge_pages=True)
        for check in checks:
            check.result()
        return {
            name: _loaded(path, folders[name] is None, {**loading, "draft": drafts.get(name)})
            for name, path in paths.items()
        }


@contextmanager
def _unswept() -> Iterator[None]:
    """Python looks for no garbage meanwhile: modules and models are hardly any, and it would look many times."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def settle() -> None:
    """From now on Python looks for no garbage among what is there: each look through all modules and models would
    hold up all answers for a tenth of a second."""
    gc.collect()
    gc.freeze()


def _loaded(path: str, check: bool, loading: Mapping[str, Any]) -> "Loaded":
    from polytask.interop import networks
    from polytask.model import Model
    from polytask.pictures import PictureModel
    from polytask.pictures.matching import PictureMatcher

    if loading["draft"] and (networks.is_clip(path) or networks.is_drawing(path)):
        raise ConfigError(f"--draft: {path} holds a model that writes no tokens; leave it out.")
    if networks.is_clip(path):
        return PictureMatcher.load(path, dtype=loading["dtype"], check=check)
    if networks.is_drawing(path):
        return PictureModel.load(path, dtype=loading["dtype"], check=check)
    return Model.load(path, check=check, **loading)


def _summed(path: str) -> Path | None:
    """The folder of a checkpoint that has checksums."""
    return next((f for f in (Path(path), Path(path) / "model") if (f / "checksums.json").is_file()), None)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, OverflowError, UnicodeError) as error:  # the last where a part of the name is empty or too long
        reason = getattr(error, "strerror", None) or error.__cause__ or error
        raise ConfigError(
            f"The server cannot listen at {host}:{port}: {reason}. Stop what listens there, or choose another place "
            "(--host, --port)."
        ) from None
    return listener


def _import_web() -> None:
    """Imports the web's libraries. Raises MissingExtra."""
    with _from_extra():
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401

        import polytask.serving.lasting  # noqa: F401


def _app(models: "Mapping[str, Loaded]", settings: Settings) -> "Starlette":
    """The app of these models. Raises MissingExtra."""
    with _from_extra():
        from polytask.serving.app import create_app
    return create_app(models, settings)


@contextmanager
def _from_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if error.name and error.name.startswith("polytask"):
            raise
        raise MissingExtra(str(error.name), "serve") from None
