"""Replicas of the app under Ray Serve, behind one address."""

import logging
import math
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from polytask.errors import CheckpointError, ConfigError, MissingExtra
from polytask.serving.server import listen, run
from polytask.serving.settings import Settings

if TYPE_CHECKING:
    from starlette.types import Message, Scope

    from polytask.serving.front import Pool

STORE = 256 << 20  # bytes that a Ray of our own may share between processes: messages are small
ANY = 100_000  # requests that Ray may hand to a replica, which itself says when its queue is full
TRIES = 3  # Ray gives its processes 30 seconds to start, which is little for a busy machine
DEPLOYMENT = "replica"
CALM = {"log_level": "WARNING", "enable_access_log": False}  # the front writes the line of each request
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # a Ray that is started here is at 127.0.0.1, as it is on those


@dataclass(frozen=True)
class Replicas:
    """How many replicas there are and what each one gets.

    least: replicas at any time; most: how many there may be under load (None: no more than least); target: requests
    that a replica should have before there is another one; cpus, gpus: what Ray reserves for each (gpus None: one where
    the cluster has any); address: of a Ray cluster that runs, None starts Ray here, "auto" finds the one of this
    machine.
    """

    least: int = 1
    most: int | None = None
    target: float = 8.0
    cpus: float = 1.0
    gpus: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.least < 1:
            raise ConfigError(f"serve: --replicas {self.least} must be 1 or more.")
        if not 0 < self.target < math.inf:
            raise ConfigError(f"serve: --target-requests {self.target} must be above 0, and finite.")
        for option, value in {"--replica-cpus": self.cpus, "--replica-gpus": self.gpus or 0.0}.items():
            if not 0 <= value < math.inf:
                raise ConfigError(f"serve: {option} {value} must be 0 or more, and finite.")
        if self.most is not None and self.most < self.least:
            raise ConfigError(f"serve: --max-replicas {self.most} is below --replicas {self.least}.")

    def scale(self) -> dict[str, Any]:
        """Words of Ray Serve's `deployment`."""
        if self.most is None:
            return {"num_replicas": self.least}
        bounds = {"min_replicas": self.least, "max_replicas": self.most, "target_ongoing_requests": self.target}
        return {"autoscaling_config": {**bounds, "initial_replicas": self.least}}


def serve_replicas(
    paths: Mapping[str, str], *, replicas: Replicas, host: str, port: int, settings: Settings,
    loading: Mapping[str, Any], started: Callable[[str, Mapping[str, str]], None],
) -> None:  # fmt: skip
    """As `server.serve`, with each request answered by one of several processes. The front runs in this process.
    `started` is told what one of them holds.

    Raises CheckpointError, ConfigError where the port is taken or no cluster answers, MissingExtra.
    """
    listener = listen(host, port)
    try:
        ray, serve, create_front = _libraries(QUIET if replicas.address else QUIET | ALONE)
        name = f"polytask-{socket.gethostname()}-{listener.getsockname()[1]}"
        _join(ray, replicas)
        try:
            pool, held = _deploy(name, paths, replicas, settings, loading)
            run(create_front(pool, settings), listener, lambda address: started(address, held))
        finally:
            if replicas.address is not None:
                serve.delete(name)
            ray.shutdown()
    finally:
        listener.close()


def _libraries(environment: Mapping[str, str]) -> tuple[Any, Any, Any]:
    os.environ |= environment  # read when Ray is imported
    try:
        import ray
        from ray import serve
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    try:
        from polytask.serving.front import create_front
    except ImportError as error:
        raise MissingExtra(str(error.name), "serve") from None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return ray, serve, create_front


def _join(ray: Any, replicas: Replicas) -> None:
    """Joins a cluster, or starts one that listens at this machine's own address alone."""
    words: dict[str, Any] = {"logging_level": logging.WARNING, "namespace": "polytask"}
    if replicas.address is not None:
        try:
            ray.init(replicas.address, **words)
        except (ConnectionError, RuntimeError, ValueError) as error:
            token = "" if os.environ.get("RAY_AUTH_MODE") else "; where it asks for a token, set RAY_AUTH_MODE=token"
            raise ConfigError(f"No Ray cluster answers at {replicas.address}: {_line(error)}{token}") from None
        return
    _start(ray, include_dashboard=False, dashboard_host="127.0.0.1", object_store_memory=STORE, **words)
    there, needed = ray.cluster_resources().get("CPU", 0), (replicas.most or replicas.least) * replicas.cpus
    if needed > there:
        ray.shutdown()
        raise ConfigError(
            f"serve: the replicas need {needed:g} CPUs, but this machine has {there:g}; ask for fewer replicas or for "
            "less for each (--replica-cpus)."
        )


def _start(ray: Any, **words: Any) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            ray.init("local", **words)
            return
        except Exception as error:  # Ray has no narrower one for it; what it started ends with this process
            if attempt == TRIES:
                raise ConfigError(
                    f"Ray did not start here in {TRIES} tries: {_line(error)} Try again when less runs on this machine."
                ) from None


def _deploy(
    name: str, paths: Mapping[str, str], replicas: Replicas, settings: Settings, loading: Mapping[str, Any]
) -> "tuple[Pool, dict[str, str]]":  # fmt: skip
    """Starts the replicas and waits until they are ready; what each one holds. Raises CheckpointError."""
    import ray
    from ray import serve
    from ray.serve.config import ProxyLocation

    from polytask.serving.replica import Board, Replica

    gpus = replicas.gpus if replicas.gpus is not None else float(ray.cluster_resources().get("GPU", 0) >= 1)
    board = ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
    deployment = serve.deployment(
        Replica, name=DEPLOYMENT, max_ongoing_requests=ANY, max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": gpus}, health_check_period_s=2,
        health_check_timeout_s=60, graceful_shutdown_timeout_s=settings.seconds, **replicas.scale(),
    )  # fmt: skip
    inner = replace(settings, keys=None, cors=())  # the front asks for keys
    serve.start(proxy_location=ProxyLocation.Disabled, logging_config=CALM)
    app = deployment.bind(dict(paths), dict(loading), inner, board, replicas.address is None)
    try:
        handle = serve.run(app, name=name, route_prefix=None, logging_config=CALM)
    except RuntimeError as error:
        said = ray.get(board.failure.remote())
        raise CheckpointError(said or f"The replicas did not start: {_line(error)}") from None
    return _pool(name, handle, board), ray.get(board.held.remote())


def _pool(name: str, handle: Any, board: Any) -> "Pool":
    from ray import serve
    from ray.exceptions import RayActorError, RayError

    from polytask.serving.front import Lost, Pool

    asking = handle.options(stream=True, method_name="ask")

    async def ask(scope: "Scope", body: bytes) -> "AsyncGenerator[list[Message], None]":
        response, ended = asking.remote(scope, body), False
        try:
            async for messages in response:
                yield messages
            ended = True
        except RayActorError as error:
            ended = True
            raise Lost(str(error)) from None
        finally:
            if not ended:
                response.cancel()

    def ready() -> int:
        deployment = serve.status().applications[name].deployments[DEPLOYMENT]
        return deployment.replica_states.get("RUNNING", 0)

    async def figures() -> dict[str, bytes]:
        try:
            return await board.figures.remote()
        except RayError:
            return {}

    return Pool(ask, ready, figures)


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
