"""The one loop. It knows batches, an objective and steps; what a batch means is the objective's business."""

import math
import time
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from polytask.errors import CheckpointError, Notice, TrainingError, out_of_memory
from polytask.interop.atomic import check_replaceable
from polytask.training.callbacks import Callback, Record, Result, Stopped
from polytask.training.checkpoint import (
    Made,
    RunState,
    Save,
    State,
    checkpoints,
    mean_weights,
    newest_state,
    prune,
    publish,
    put_newer_aside,
    save_weights,
    sweep,
    write_checkpoint,
    write_model_folder,
)  # fmt: skip
from polytask.training.config import TrainingConfig
from polytask.training.ema import MovingAverage
from polytask.training.guard import WINDOW, fault
from polytask.training.interrupt import Interrupt
from polytask.training.logs import JsonLog, TensorBoard
from polytask.training.objectives.loss import Objective, WithLoss
from polytask.training.optimizers import build_optimizer
from polytask.training.parallel.blocks import blocks_of, checkpoint_activations, compile_blocks
from polytask.training.parallel.data import World, shard, unsharded
from polytask.training.parallel.tensors import copy_into, gather
from polytask.training.schedules import learning_rate
from polytask.training.step import Ahead, Batches, Figures, backward, clip_gradients
from polytask.training.validation import validation_losses

Validation = Mapping[str, Callable[[], Iterable[Any]]]


@dataclass
class Mark:
    """Where the log's interval began; what is spent on saving and evaluating is added to its time."""

    step: int
    tokens: int
    time: float


class Trainer:
    """Trains a network on an objective; every process of a run makes one, with its own part of the batches.

    batches       (step, micro) -> this process's batch; a function of its arguments alone, since it is called ahead of
                  time, in a thread, and again when a run resumes
    save          puts the model's files into a folder; by default its weights alone
    validation    source -> a pass over its held-out batches; gives "validation_loss" and "validation_loss/SOURCE"
    evaluate      step -> more metrics, measured with the weights that checkpoints hold; called in every process
    samples       step -> texts to show; where it fails the run goes on
    sources       names of the sources that `batch.sources` counts, for losses by source
    flops_per_token, peak_flops    of the network, and of one process's machine, for MFU
    """

    def __init__(
        self, network: nn.Module, objective: Objective, batches: Batches, config: TrainingConfig, out: Path | str, *,
        save: Save = save_weights, callbacks: Sequence[Callback] = (), validation: Validation | None = None,
        evaluate: Callable[[int], Mapping[str, float]] | None = None, samples: Callable[[int], list[str]] | None = None,
        sources: Sequence[str] = (), flops_per_token: float = 0.0, peak_flops: float = 0.0, world: World = World(),  # noqa: B008 a frozen value
    ):  # fmt: skip
        self.network, self.batches, self.config, self.out = network, batches, config, Path(out)
        self.save, self.validation, self.evaluate, self.samples = save, validation or {}, evaluate, samples
        self.sources, self.world = tuple(sources), world
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.device = next(network.parameters()).device
        self.module = WithLoss(network, objective)
        self._apply_plan()
        self.optimizer = build_optimizer(network, config)
        self.trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.average = MovingAverage(self.trained, config.ema) if config.ema else None
        self.state = RunState(optimizer=config.optimizer)
        self.callbacks = self._watchers(callbacks) if world.first else []

    def _apply_plan(self) -> None:
        blocks = blocks_of(self.network)
        if self.config.checkpointing:
            checkpoint_activations(blocks)
        if self.config.compile:
            compile_blocks(blocks)
        shard(self.module, blocks, self.world)

    def _watchers(self, callbacks: Sequence[Callback]) -> list[Callback]:
        board: list[Callback] = [TensorBoard(self.out)] if self.config.tensorboard else []
        return [JsonLog(self.out), *board, *callbacks]

    # ---- the run

    def run(self, resume: bool = False) -> Result:
        """Trains to the end, or until it is stopped or stops getting better.

        Raises TrainingError where the run cannot go on, and CheckpointError where no checkpoint can be read or written.
        """
        self._begin(resume)
        self._tell("on_start", self.state.step, self.config.steps)
        result, ahead = None, Ahead(self.batches, self.config.accumulate, self.config.steps, self.device)
        self.network.train()
        try:
            with Interrupt() as interrupt:
                result = self._loop(ahead, interrupt)
            return result
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise self._too_large() from error
        finally:
            ahead.close()
            self.network.eval()
            self._tell("on_end", result)

    def _loop(self, ahead: Ahead, interrupt: Interrupt) -> Result:
        config, state = self.config, self.state
        measured = config.evaluate_every and (self.validation or self.evaluate or self.samples or config.keep_best)
        saved, stop, early = state.step if state.step else -1, False, False
        self._mark = Mark(state.step, state.tokens, time.monotonic())
        while state.step < config.steps and not (stop or early):
            figures = self._step(ahead, interrupt.asked)
            stop = figures.stop
            self._tell("on_step", state.step)
            done = state.step == config.steps
            if state.step % config.log_every == 0 or done:
                self._log(figures)
            if measured and (state.step % config.evaluate_every == 0 or done):
                early = self._measure()
            if done or stop or early or (config.save_every and state.step % config.save_every == 0):
                self._save()
                saved = state.step
        if saved != state.step:
            self._save()
        return self._finish(stop and state.step < config.steps, early)

    def _begin(self, resume: bool) -> None:
        if self.world.first:
            self.out.mkdir(parents=True, exist_ok=True)
            check_replaceable(self.out / "model")
            sweep(self.out)
        self.world.wait()
        there = checkpoints(self.out)
        if there and not resume:
            raise TrainingError(
                f"{self.out} already holds a run, saved at {there[-1].name}. "
                "Go on with it by --resume, or choose another --out."
            )
        found = newest_state(self.out) if resume else None
        self.world.wait()  # all have read what the first now moves
        if found is not None:
            self._restore(*found)
        elif resume and self.world.first:
            warnings.warn(f"{self.out} holds no checkpoint to go on from; the run begins.", Notice, stacklevel=3)

    def _restore(self, path: Path, state: State) -> None:
        targets = self._tensors()
        lost = sorted(targets.keys() ^ state.weights.keys())
        wrong = lost or [name for name in targets if targets[name].shape != state.weights[name].shape]
        if wrong:
            self._refuse(path, f"'{wrong[0]}' differs")
        if bool(state.ema) != (self.average is not None):
            self._refuse(path, "one of them keeps a moving average (ema)")
        if state.run.optimizer != self.config.optimizer:
            self._refuse(path, f"its optimizer was {state.run.optimizer}, not {self.config.optimizer}")
        copy_into(targets, state.weights)
        self.optimizer.load(state.optimizer)
        if self.average is not None:
            copy_into(self.average.shadow, state.ema)
        self.state = state.run
        if self.world.first:
            put_newer_aside(self.out, self.state.step)
            self._publish(path)  # what wrote the checkpoint may have ended before it did

    def _refuse(self, path: Path, what: str) -> NoReturn:
        raise CheckpointError(
            f"{path} is of another network or recipe: {what}. Resume with the recipe that the run began with."
        )

    def _frozen(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.network.named_parameters() if not p.requires_grad}

    def _tensors(self) -> dict[str, Tensor]:
        """What is learned and must be kept: trained parameters, and buffers that a state dict holds."""
        frozen = self._frozen()
        return {name: tensor for name, tensor in self.network.state_dict().items() if name not in frozen}

    # ---- one step

    def _step(self, ahead: Ahead, asked: bool) -> Figures:
        config, state = self.config, self.state
        self._seed()
        self.module.begin(state.step)
        self.optimizer.zero_grad()
        figures = backward(
            self.module, lambda micro: ahead.get(state.step, micro), config.accumulate, self.world,
            precision_name=config.precision, sources=self.sources, stop=asked,
        )  # fmt: skip
        if not figures.sums["loss"][1]:
            raise TrainingError(
                f"The batch of step {state.step + 1} has no token to learn from: every weight is 0. "
                "Look at the data's targets."
            )
        losses = figures.by_source()
        reason = fault(figures.mean(), figures.norm, losses, state.recent, config.spike)
        state.step += 1
        state.tokens += figures.tokens
        if reason:
            self._skip(reason, math.isfinite(figures.mean()) and math.isfinite(figures.norm))
            return figures
        state.bad = 0
        state.recent, state.loss = [*deque(state.recent, WINDOW - 1), losses], figures.mean()
        clip_gradients(self.module, figures.norm, config.clip)
        self.optimizer.step(learning_rate(state.step - 1, config))
        if self.average is not None:
            self.average.update(state.step)
        Figures(state.interval).add(figures)
        return figures

    def _seed(self) -> None:
        """Randomness of a step (dropout) depends on nothing but seed, step and rank, so resuming needs no more."""
        torch.manual_seed(zlib.crc32(f"{self.config.seed} {self.state.step} {self.world.rank}".encode()))

    def _skip(self, reason: str, number: bool) -> None:
        """Losses that stay high are the weights', which no skipping brings back: training on does, mostly."""
        state = self.state
        state.bad += 1
        self._tell("on_event", state.step, f"skipped a step: {reason}")
        if state.bad < self.config.skips:
            return
        if number:
            self._tell("on_event", state.step, f"{state.bad} steps in a row were as bad, so the run goes on from there")
            state.bad, state.recent = 0, []
            return
        there = checkpoints(self.out)
        good = f"The last good checkpoint is {there[-1]}" if there else "There is no checkpoint yet"
        raise TrainingError(
            f"{state.bad} steps in a row were bad (step {state.step}: {reason}). {good}. "
            "Lower training.lr or raise training.warmup, and look at the data of these steps."
        )

    # ---- what the user sees and keeps

    def _log(self, figures: Figures) -> None:
        state, mark, now = self.state, self._mark, time.monotonic()
        self._mark = Mark(state.step, state.tokens, now)
        steps, seconds = max(1, state.step - mark.step), max(1e-9, now - mark.time)
        speed = (state.tokens - mark.tokens) / seconds
        record = Record(
            step=state.step, steps=self.config.steps, losses=Figures(state.interval).means(),
            lr=learning_rate(state.step - 1, self.config), norm=figures.norm, tokens=state.tokens,
            tokens_per_second=speed, left=(self.config.steps - state.step) * seconds / steps,
            mfu=speed * self.flops_per_token / (self.peak_flops * self.world.size) if self.peak_flops else None,
        )  # fmt: skip
        state.interval = {}
        if record.losses:
            self._tell("on_log", record)

    @contextmanager
    def weights_to_keep(self) -> Iterator[None]:
        """The network with the weights that checkpoints hold (the moving average, where there is one), evaluating."""
        self.network.eval()
        if self.average is not None:
            self.average.swap()
        try:
            with torch.no_grad():
                yield
        finally:
            if self.average is not None:
                self.average.swap()
            self.network.train()

    def _measure(self) -> bool:
        """As `_evaluate`; what was learned until then is saved where that fails."""
        try:
            return self._evaluate()
        except Exception:
            if self.world.size == 1:  # others may not have failed, and would wait for what they save together
                self._save()
            raise

    def _evaluate(self) -> bool:
        """Measures, keeps the model if it is the best so far; True where patience has run out."""
        config, state, start = self.config, self.state, time.monotonic()
        with self.weights_to_keep():
            metrics = validation_losses(self.module, self.validation, self.device, config.precision, self.world)
            with unsharded(self.module):
                metrics |= self.evaluate(state.step) if self.evaluate is not None else {}
                texts = self._texts()
        state.metrics = metrics = self.world.share(metrics)
        state.measured = state.step
        self._tell("on_evaluate", state.step, metrics)
        if texts:
            self._tell("on_samples", state.step, texts)
        exhausted = self._compare(metrics) if config.keep_best else False
        self._mark.time += time.monotonic() - start
        return exhausted

    def _texts(self) -> list[str]:
        """Samples to show; no failure of theirs is worth a run."""
        if self.samples is None:
            return []
        try:
            return self.samples(self.state.step)
        except Exception as error:
            self._tell("on_event", self.state.step, f"no samples can be shown: {error}")
            return []

    def _compare(self, metrics: Mapping[str, float]) -> bool:
        config, state = self.config, self.state
        assert config.keep_best is not None
        if config.keep_best not in metrics:
            raise TrainingError(
                f"keep_best names '{config.keep_best}', which the evaluation does not measure; it measures: "
                f"{', '.join(sorted(metrics)) or 'nothing'}."
            )
        value = metrics[config.keep_best]
        better = state.best is None or (value < state.best if config.best == "lowest" else value > state.best)
        if better:
            state.best, state.best_step, state.waited = value, state.step, 0
            self._write_model(self._kept_weights(), state.made())
        else:
            state.waited += 1
        return bool(config.patience) and state.waited >= config.patience

    def _kept_weights(self) -> dict[str, Tensor]:
        """Whole weights that a user is to get: everything, with the moving average of what has one."""
        tensors = self.network.state_dict() | (self.average.shadow if self.average is not None else {})
        return gather(tensors, keep=self.world.first)

    def _write_model(self, weights: Mapping[str, Tensor], made: Made) -> None:
        if self.world.first:
            write_model_folder(self.out / "model", self.save, weights, made)

    def _save(self) -> None:
        start, config, keep = time.monotonic(), self.config, self.world.first
        ema = gather(self.average.shadow, keep) if self.average is not None else {}
        state = State(self.state, gather(self._tensors(), keep), gather(self.optimizer.state(), keep), ema)
        model = state.weights | gather(self._frozen(), keep) | ema
        if self.world.first:
            path = write_checkpoint(self.out, state, lambda folder: self.save(folder, model, self.state.made()))
            self._publish(path)
            prune(self.out, max(config.keep, config.average_last))
            self._tell("on_save", self.state.step, path)
        self.world.wait()
        self._mark.time += time.monotonic() - start

    def _publish(self, path: Path) -> None:
        if not self.config.keep_best or self.state.best is None:
            publish(path, self.out)

    def _finish(self, stopped: bool, early: bool) -> Result:
        config, state, model = self.config, self.state, self.out / "model"
        if stopped:
            message = (
                f"Stopped after step {state.step} of {config.steps}; everything is saved in {self.out}. "
                "Go on with the same command and --resume."
            )
            return Stopped(self.out, model, state.step, state.loss, message, state.metrics)
        if config.average_last > 1:
            self._average(checkpoints(self.out)[-config.average_last :])
        message = f"Trained {state.step} steps; the model is in {model}."
        if config.keep_best:
            message += f" It is the one of step {state.best_step}, with {config.keep_best} {state.best:.4g}."
        if early:
            message = f"No better {config.keep_best} for {config.patience} evaluations. " + message
        return Result(self.out, model, state.step, state.loss, message, state.metrics)

    def _average(self, last: Sequence[Path]) -> None:
        """Makes the model the mean of checkpoints; what they do not hold, because it is frozen, is the network's."""
        whole = gather(self.network.state_dict(), keep=self.world.first)  # by all processes together
        if self.world.first and len(last) > 1:
            # Nobody has measured the mean, so it has no figures.
            self._write_model(whole | mean_weights(last), Made(self.state.step, self.state.tokens))
        self.world.wait()

    def _too_large(self) -> TrainingError:
        spare = "" if self.config.checkpointing else "set training.checkpointing to true, "
        return TrainingError(
            f"Out of memory on {self.device} at step {self.state.step + 1}. Lower the batch rows and raise "
            f"training.accumulate by the same factor (the result stays the same), {spare}or lower the context length."
        )

    def _tell(self, event: str, *words: object) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*words)
