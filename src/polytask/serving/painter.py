"""Runs the engines of a model that draws by diffusion: the pictures of all clients go through the same passes."""

from torch import Tensor

from polytask.inference.images import ImageHandle
from polytask.pictures import PictureModel, Plan
from polytask.serving.worker import LOG, Job, Meter, Worker, tell


class PaintingJob(Job):
    """A plan of so many pictures of one client."""

    def __init__(self, plan: Plan, pictures: int, seconds: float):
        super().__init__(pictures, seconds)
        self.plan = plan
        self.handles: list[ImageHandle] = []  # the worker's
        self._pictures: list[Tensor] | None = None

    @property
    def over(self) -> bool:
        return self._error is not None or self._pictures is not None

    def receive(self, pictures: list[Tensor]) -> None:
        """Takes what was drawn, in the event loop."""
        self._pictures = pictures
        self._wake.set()

    async def result(self) -> list[Tensor]:
        """The pictures (1, 3, S, S)."""
        await self.woken()
        if self._error is not None:
            raise self._error
        assert self._pictures is not None
        return self._pictures


class Painter(Worker[PaintingJob]):
    """waiting: how many pictures may wait beside those that run."""

    def __init__(self, model: PictureModel, waiting: int, seconds: float, meter: Meter):
        self.engines = model.engines
        self._jobs: list[PaintingJob] = []
        super().__init__(model.engine.max_requests + waiting, seconds, meter)

    async def submit(self, plan: Plan, pictures: int) -> PaintingJob:
        """A job of this plan, begun; see `enter`."""
        return await self.enter(PaintingJob(plan, pictures, self.seconds))

    def stats(self) -> dict[str, float]:
        """How many pictures run and wait, of all stages."""
        stats = [engine.stats() for engine in self.engines]
        return {"running": sum(one.running for one in stats), "waiting": sum(one.waiting for one in stats)}

    @property
    def _busy(self) -> bool:
        return bool(self._jobs)

    def _admit(self, job: PaintingJob) -> None:
        self._begin_stage(job, None)
        self._jobs.append(job)

    def _begin_stage(self, job: PaintingJob, drawn: list[Tensor] | None) -> None:
        """Goes on with a plan to its next pictures. Raises StopIteration with the last ones."""
        engine, requests = next(job.plan) if drawn is None else job.plan.send(drawn)
        job.handles = []
        try:
            for request in requests:
                job.handles.append(engine.submit(request))
        except BaseException:
            self._withdraw(job)
            raise

    def _withdraw(self, job: PaintingJob) -> None:
        for handle in job.handles:
            handle.cancel()
        if job in self._jobs:
            self._jobs.remove(job)

    def _step(self) -> None:
        for engine in self.engines:
            try:
                engine.step()
            except BaseException as error:  # no request's own fault: those that run have no picture any more
                LOG.exception("A step of the engine failed.")
                for job in list(self._jobs):
                    self._fail(job, error)
                return
        for job in list(self._jobs):
            if error := next((handle.error for handle in job.handles if handle.error is not None), None):
                self._fail(job, error)
            elif all(handle.done for handle in job.handles):
                self._go_on(job)

    def _go_on(self, job: PaintingJob) -> None:
        try:
            self._begin_stage(job, [handle.result() for handle in job.handles])
        except StopIteration as done:
            self._jobs.remove(job)
            self.meter.drew(job.size)
            tell(job.loop, job.receive, done.value)
        except BaseException as error:
            self._fail(job, error)
