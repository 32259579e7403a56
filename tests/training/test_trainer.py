import json
import threading

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from polytask.errors import TrainingError
from polytask.training.callbacks import Callback, Stopped
from polytask.training.checkpoint import checkpoints
from polytask.training.config import TrainingConfig
from polytask.training.logs import plot_loss, read_log
from polytask.training.objectives.language import LanguageModelling
from polytask.training.objectives.loss import Loss
from polytask.training.progress import LiveView, duration, short
from polytask.training.schedules import learning_rate
from polytask.training.trainer import Trainer
from tests.training.toy import batches, losses, network, rows, trainer


class Faulty(LanguageModelling):
    """Gives a chosen loss at chosen steps (counted by calls)."""

    def __init__(self, faults):
        super().__init__()
        object.__setattr__(self, "faults", faults)
        object.__setattr__(self, "calls", [0])

    def loss(self, model, batch):
        good = super().loss(model, batch)
        self.calls[0] += 1
        factor = self.faults.get(self.calls[0], 1.0)
        return Loss(good.sum * factor, good.weight, good.token_losses)


class Uneven(Faulty):
    """Its sum varies by its nature, and it names what does not."""

    def loss(self, model, batch):
        found = super().loss(model, batch)
        calm = LanguageModelling.loss(self, model, batch).sum.detach()
        return found._replace(log={"calm": calm}, judged="calm")


class Weights(Callback):
    def __init__(self, net):
        self.net, self.seen, self.events = net, [], []

    def on_step(self, step):
        self.seen.append({name: p.detach().clone() for name, p in self.net.named_parameters()})

    def on_event(self, step, message):
        self.events.append((step, message))


def faulty(out, faults, steps=60, kind=Faulty, **words):
    net = network()
    watch = Weights(net)
    config = TrainingConfig(steps, lr=1e-3, log_every=1, schedule="constant", **words)
    return Trainer(net, kind(faults), batches(), config, out, callbacks=[watch]), watch


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def test_training_learns_and_leaves_a_log(tmp_path):
    result = trainer(
        tmp_path, TrainingConfig(80, lr=1e-2, warmup=5, log_every=20, spike=0), flops_per_token=1e4, peak_flops=1e9
    ).run()
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == [20, 40, 60, 80]
    assert lines[-1]["loss"] < lines[0]["loss"] / 3
    assert lines[-1]["loss"] == pytest.approx((lines[-1]["loss/even"] + lines[-1]["loss/odd"]) / 2, rel=0.2)
    assert lines[-1]["lr"] == learning_rate(79, TrainingConfig(80, lr=1e-2, warmup=5))
    assert lines[-1]["mfu"] == pytest.approx(lines[-1]["tokens_per_second"] * 1e4 / 1e9, abs=1e-4)
    assert lines[-1]["tokens"] == 80 * rows(0).tokens
    assert result.step == 80
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_log_line_holds_the_mean_since_the_last(tmp_path):
    config = {"lr": 1e-2, "schedule": "constant"}
    trainer(tmp_path / "each", TrainingConfig(6, log_every=1, **config)).run()
    trainer(tmp_path / "three", TrainingConfig(6, log_every=3, **config)).run()
    weights = [float(rows(step).weights.sum()) for step in range(6)]
    each = [line["loss"] for line in losses(tmp_path / "each")]
    for line, part in zip(losses(tmp_path / "three"), (slice(0, 3), slice(3, 6)), strict=True):
        expected = sum(a * w for a, w in zip(each[part], weights[part])) / sum(weights[part])
        assert line["loss"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 50.0])
def test_a_bad_step_is_skipped_and_reported(tmp_path, factor):
    run, watch = faulty(tmp_path, {50: factor})
    result = run.run()
    assert result.step == 60
    assert [step for step, _ in watch.events] == [50]
    assert same(watch.seen[48], watch.seen[49]), "a skipped step must leave the weights as they are"
    assert not same(watch.seen[49], watch.seen[50])
    assert all(torch.isfinite(tensor).all() for tensor in watch.seen[-1].values())
    assert {"step": 50, "event": watch.events[0][1]} in read_log(tmp_path / "log.jsonl")


def test_what_varies_by_its_nature_is_no_spike(tmp_path):
    run, watch = faulty(tmp_path / "uneven", {50: 50.0, 55: 50.0}, kind=Uneven)
    assert run.run().step == 60
    assert not watch.events
    run, watch = faulty(tmp_path / "no-number", {50: float("nan")}, kind=Uneven)
    run.run()
    assert [step for step, _ in watch.events] == [50]


def test_several_bad_steps_in_a_row_end_the_run(tmp_path):
    run, watch = faulty(tmp_path, {step: float("nan") for step in range(13, 30)}, save_every=10, skips=3)
    with pytest.raises(TrainingError, match=r"3 steps in a row.*step-000010"):
        run.run()
    assert len(watch.events) == 3
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000010"]
    run, watch = faulty(tmp_path / "b", {5: float("nan"), 7: float("nan"), 9: float("nan")}, steps=12, skips=2)
    assert run.run().step == 12, "bad steps apart from each other do not end a run"


def test_a_loss_that_stays_high_is_the_new_level(tmp_path):
    """No skipped step would bring it down again, and the run must not end for it."""
    run, watch = faulty(tmp_path, dict.fromkeys(range(50, 90), 50.0), steps=100, skips=3)
    assert run.run().step == 100
    assert [step for step, _ in watch.events] == [50, 51, 52, 52]
    assert "goes on from there" in watch.events[-1][1]
    assert not same(watch.seen[51], watch.seen[52])


def test_gradient_without_number_is_skipped(tmp_path):
    run, watch = faulty(tmp_path, {}, steps=4)
    parameter = next(run.network.parameters())
    calls = []
    parameter.register_hook(lambda g: g * (float("nan") if calls.append(0) or len(calls) == 3 else 1.0))
    run.run()
    assert [step for step, _ in watch.events] == [3]


def test_data_without_targets_is_an_error(tmp_path):
    def empty(step, micro):
        batch = rows(step)
        batch.weights = torch.zeros_like(batch.weights)
        return batch

    with pytest.raises(TrainingError, match="every weight is 0"):
        Trainer(network(), LanguageModelling(), empty, TrainingConfig(3), tmp_path).run()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(),
    ],
)  # fmt: skip
def test_out_of_memory_says_what_to_lower(tmp_path, error):
    class Greedy(LanguageModelling):
        def loss(self, model, batch):
            raise error

    with pytest.raises(TrainingError, match=r"training\.accumulate.*training\.checkpointing"):
        Trainer(network(), Greedy(), batches(), TrainingConfig(3), tmp_path).run()


def test_errors_of_the_data_reach_the_caller(tmp_path):
    def broken(step, micro):
        if step == 2:
            raise KeyError("row 7")
        return rows(step)

    with pytest.raises(KeyError, match="row 7"):
        Trainer(network(), LanguageModelling(), broken, TrainingConfig(5), tmp_path).run()
    assert not [thread for thread in threading.enumerate() if "polytask-batches" in thread.name]


def test_the_moving_average_is_what_checkpoints_hold(tmp_path):
    net = network()
    watch = Weights(net)
    expected = {name: p.detach().clone() for name, p in net.named_parameters()}
    trainer(tmp_path, TrainingConfig(30, lr=1e-2, ema=0.6), net, callbacks=[watch]).run()
    for step, weights in enumerate(watch.seen, start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * weights[name] for name in expected}
    kept = load_file(tmp_path / "model" / "model.safetensors")
    state = load_file(checkpoints(tmp_path)[-1] / "state" / "weights.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-4, atol=1e-6)
        assert torch.equal(state[name], watch.seen[-1][name])


def test_evaluation_sees_the_average_and_changes_nothing(tmp_path):
    net, seen = network(dropout=0.2), []

    def evaluate(step):
        assert not net.training
        assert not torch.is_grad_enabled()
        torch.rand(step)
        seen.append({name: p.detach().clone() for name, p in net.named_parameters()})
        return {"score": float(step)}

    config = TrainingConfig(12, lr=1e-2, ema=0.5, evaluate_every=6, log_every=1)
    result = trainer(tmp_path / "a", config, net, evaluate=evaluate, validation={"v": lambda: [rows(99)]}).run()
    kept = load_file(tmp_path / "a" / "model" / "model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in seen[-1].items())
    assert set(result.metrics) == {"score", "validation_loss", "validation_loss/v"}
    trainer(tmp_path / "b", TrainingConfig(12, lr=1e-2, ema=0.5, evaluate_every=0, log_every=1), network(0.2)).run()
    watched = [line for line in losses(tmp_path / "a") if "evaluation" not in line]
    assert watched == losses(tmp_path / "b")


def test_validation_loss_is_the_mean_over_tokens(tmp_path):
    net = network()
    held = [rows(50), rows(51)]
    result = trainer(
        tmp_path, TrainingConfig(3, evaluate_every=3, label_smoothing=0.1), net, validation={"v": lambda: held}
    ).run()
    with torch.no_grad():
        parts = [LanguageModelling().loss(net, batch) for batch in held]
    expected = sum(float(p.sum) for p in parts) / sum(float(p.weight) for p in parts)
    assert result.metrics["validation_loss"] == pytest.approx(expected, rel=1e-6)


def scored(out, scores, **words):
    scores = iter(scores)
    net = network()
    watch = Weights(net)
    config = TrainingConfig(
        60, lr=1e-2, evaluate_every=2, save_every=10, keep_best="score", best="highest", log_every=60, **words
    )
    return trainer(out, config, net, evaluate=lambda step: {"score": next(scores, 0.0)}, callbacks=[watch]), watch


def test_the_best_model_is_kept(tmp_path):
    run, watch = scored(tmp_path, [0.1, 0.7, 0.3, 0.6])
    result = run.run()
    assert "step 4" in result.message
    assert same(watch.seen[3], load_file(tmp_path / "model" / "model.safetensors"))


def test_patience_ends_a_run(tmp_path):
    run, watch = scored(tmp_path, [0.1, 0.7, 0.3, 0.6, 0.5, 0.9], patience=3)
    result = run.run()
    assert result.step == 10
    assert len(watch.seen) == 10
    assert not isinstance(result, Stopped)
    assert same(watch.seen[3], load_file(tmp_path / "model" / "model.safetensors"))
    assert checkpoints(tmp_path)[-1].name == "step-000010"


def test_a_metric_that_is_not_measured_is_named(tmp_path):
    config = TrainingConfig(4, evaluate_every=2, keep_best="bleu")
    with pytest.raises(TrainingError, match=r"bleu.*validation_loss"):
        trainer(tmp_path, config, validation={"v": lambda: [rows(9)]}).run()


def broken(step):
    raise ValueError("nothing to say")


def test_samples_that_fail_end_no_run(tmp_path):
    net = network()
    watch = Weights(net)
    config = TrainingConfig(4, evaluate_every=2)
    result = trainer(
        tmp_path, config, net, callbacks=[watch], evaluate=lambda step: {"score": step}, samples=broken
    ).run()
    assert watch.events == [(step, "no samples can be shown: nothing to say") for step in (2, 4)]
    assert (result.step, result.metrics["score"]) == (4, 4)
    assert same(load_file(tmp_path / "model" / "model.safetensors"), watch.seen[-1])


def test_an_evaluation_that_fails_loses_no_step(tmp_path):
    net = network()
    watch = Weights(net)
    with pytest.raises(ValueError, match="nothing to say"):
        trainer(tmp_path, TrainingConfig(4, evaluate_every=3), net, callbacks=[watch], evaluate=broken).run()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000003"]
    assert same(load_file(tmp_path / "model" / "model.safetensors"), watch.seen[2])


def test_the_final_model_is_the_mean_of_the_last_checkpoints(tmp_path):
    net = network()
    watch = Weights(net)
    trainer(tmp_path, TrainingConfig(8, lr=1e-2, save_every=2, keep=1, average_last=3), net, callbacks=[watch]).run()
    kept = load_file(tmp_path / "model" / "model.safetensors")
    for name, tensor in kept.items():
        expected = torch.stack([watch.seen[step][name] for step in (3, 5, 7)]).mean(0)
        torch.testing.assert_close(tensor, expected)


def test_what_a_user_sees(tmp_path, capsys):
    console = Console(width=200)
    words = {"flops_per_token": 1e4, "peak_flops": 1e9, "samples": lambda step: [f"a sample of step {step}"]}
    config = TrainingConfig(4, log_every=2, evaluate_every=4)
    trainer(tmp_path, config, callbacks=[LiveView(console)], validation={"v": lambda: [rows(9)]}, **words).run()
    text = capsys.readouterr().out
    for word in ("step 2/4", "loss", "tokens/s", "MFU", "even", "odd", "left", "validation_loss", "a sample of step 4"):
        assert word in text
    terminal = Console(width=160, force_terminal=True)
    trainer(tmp_path / "live", config, callbacks=[LiveView(terminal)], **words).run()
    assert "4/4" in capsys.readouterr().out
    assert (short(1_234_567), short(12.0), duration(3725), duration(5)) == ("1.23M", "12", "1:02:05", "0:05")


def test_tensorboard_files(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(tmp_path, TrainingConfig(4, log_every=1, tensorboard=True)).run()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = [line["loss"] for line in losses(tmp_path)]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged)


def test_a_log_cut_short_is_read(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n" + '{"step": 2, "lo')
    assert read_log(log) == [{"step": 1, "loss": 2.0}]
    assert plot_loss(log, tmp_path / "loss.png")
    log.write_text("")
    assert not plot_loss(log, tmp_path / "none.png")
