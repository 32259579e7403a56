import errno
import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from polytask.errors import CheckpointError, TrainingError
from polytask.interop.atomic import atomic_folder, verify, write_checksums
from polytask.training import checkpoint as module
from polytask.training.checkpoint import checkpoints, mean_weights, newest_state, prune, publish, read_state, sweep
from polytask.training.config import TrainingConfig
from tests.training.toy import losses, network, trainer

CONFIG = TrainingConfig(6, lr=1e-2, save_every=2, keep=3, log_every=1)


@pytest.fixture
def run(tmp_path):
    trainer(tmp_path, CONFIG).run()
    return tmp_path


def test_layout_and_number(run):
    assert [path.name for path in checkpoints(run)] == ["step-000002", "step-000004", "step-000006"]
    for path in [*checkpoints(run), run / "model"]:
        verify(path)
    assert sorted(file.name for file in (run / "model").iterdir()) == ["checksums.json", "model.safetensors"]
    kept = load_file(run / "model" / "model.safetensors")
    state = read_state(checkpoints(run)[-1])
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.weights.items())
    assert not [file for file in run.rglob("*") if file.suffix in (".pt", ".bin", ".pkl", ".pth")]
    extra = run.parent / "more"
    shutil.rmtree(extra, ignore_errors=True)
    trainer(extra, TrainingConfig(6, save_every=1, keep=1)).run()
    assert [path.name for path in checkpoints(extra)] == ["step-000006"]


@pytest.mark.parametrize("victim", ["model.safetensors", "state/optimizer.safetensors", "state/run.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(run, victim):
    file = checkpoints(run)[-1] / victim
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=file.name):
        read_state(checkpoints(run)[-1])
    before = losses(run)
    with pytest.warns(UserWarning, match=rf"{file.name}.*step-000004"):
        trainer(run, CONFIG).run(resume=True)
    assert losses(run) == before
    verify(run / "checkpoints" / "step-000006")


def test_a_newest_checkpoint_that_never_was_whole_blocks_nothing_and_costs_no_good_one(run):
    (run / "checkpoints" / "step-000006" / "checksums.json").unlink()
    shutil.copytree(run / "checkpoints" / "step-000006", run / "checkpoints" / "step-000009")
    with pytest.warns(UserWarning, match="is kept as") as told:
        trainer(run, CONFIG).run(resume=True)
    said = " ".join(str(one.message) for one in told)
    assert re.search(r"step-000006 has no checksums.*step-000004.*step-000009 is kept as .*unread-step-000009", said)
    assert [path.name for path in checkpoints(run)] == ["step-000002", "step-000004", "step-000006"]
    for path in checkpoints(run):
        verify(path)
    sweep(run)
    assert not list(run.rglob(".*"))
    assert len(list((run / "checkpoints").glob("unread-step-*"))) == 2  # another program may still read them


def test_where_all_are_damaged_no_fresh_run_begins(run):
    for path in checkpoints(run):
        os.truncate(path / "state" / "weights.safetensors", 10)
    with pytest.raises(CheckpointError, match=r"step-000006.*step-000002"):
        trainer(run, CONFIG).run(resume=True)


def test_a_run_that_ended_between_its_last_checkpoint_and_its_model_has_both_after_going_on(tmp_path, monkeypatch):
    def killed(path, out):
        if path.name == "step-000006":
            raise KeyboardInterrupt
        return publish(path, out)

    with monkeypatch.context() as patch:
        patch.setattr("polytask.training.trainer.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path, CONFIG).run()
    trainer(tmp_path, CONFIG).run(resume=True)
    kept = load_file(tmp_path / "model" / "model.safetensors")
    trained = read_state(checkpoints(tmp_path)[-1]).weights
    assert all(torch.equal(kept[name], tensor) for name, tensor in trained.items())


def test_missing_files_are_named(run):
    (checkpoints(run)[-1] / "state" / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        read_state(checkpoints(run)[-1])
    with pytest.raises(CheckpointError, match="not a run to go on with"):
        read_state(run / "model")


def test_a_run_is_not_overwritten(run):
    with pytest.raises(TrainingError, match=r"step-000006.*--resume"):
        trainer(run, CONFIG).run()


def test_another_network_is_refused(run):
    with pytest.raises(CheckpointError, match=r"output\.weight"):
        trainer(run, CONFIG, network(tied=False)).run(resume=True)
    with pytest.raises(CheckpointError, match="ema"):
        trainer(run, TrainingConfig(6, ema=0.9)).run(resume=True)
    with pytest.raises(CheckpointError, match="adamw, not muon"):
        trainer(run, TrainingConfig(8, optimizer="muon")).run(resume=True)


def test_resuming_without_a_checkpoint_begins(tmp_path):
    assert trainer(tmp_path, CONFIG).run(resume=True).step == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trainer(tmp_path, CONFIG).run(resume=True).step == 6, "a finished run has nothing left to do"


def test_a_full_disk_spares_the_checkpoint_before(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left.*--resume"):
        trainer(run, TrainingConfig(8, save_every=2, keep=3)).run(resume=True)
    monkeypatch.undo()
    found = newest_state(run)
    assert found is not None
    assert found[1].run.step == 6
    assert not list(run.rglob(".*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=260k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        with pytest.raises(CheckpointError, match=r"No space left.*Earlier checkpoints are untouched"):
            trainer(disk, TrainingConfig(20, save_every=1, keep=20)).run()
        found = newest_state(disk)
        assert found is not None
        assert found[1].run.step == len(checkpoints(disk)) >= 1
        assert not list((disk / "checkpoints").glob(".*"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_the_newest_is_the_one_of_most_steps(tmp_path):
    for step in ("999000", "999500", "1000000", "notes"):
        (tmp_path / "checkpoints" / f"step-{step}").mkdir(parents=True)
    assert [path.name[5:] for path in checkpoints(tmp_path)] == ["999000", "999500", "1000000"]
    prune(tmp_path, 1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-1000000", "step-notes"]


def test_what_was_moved_aside_for_what_never_came_is_put_back(tmp_path):
    for name in ("checkpoints", ".model.old-999999999", ".model.new-999999999"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".model.old-999999999" / "kept").write_text("whole")
    sweep(tmp_path)
    assert (tmp_path / "model" / "kept").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "model"]


def test_an_interruption_between_the_renames_loses_nothing(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    write_checksums(tmp_path / "model")
    before, rename = (tmp_path / "model" / "checksums.json").read_text(), Path.rename

    def interrupted(path, target):
        if ".new-" in path.name:
            raise KeyboardInterrupt
        return rename(path, target)

    def save():
        with atomic_folder(tmp_path / "model") as fresh:
            (fresh / "more").write_text("half")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save()
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "checksums.json").read_text() == before


def test_sweeping_spares_the_living(tmp_path):
    folder = tmp_path / "checkpoints"
    parent, dead = folder / f".step-000001.new-{os.getppid()}", folder / ".step-000001.new-999999999"
    for path in (parent, dead, folder / "step-000001"):
        path.mkdir(parents=True)
    sweep(tmp_path)
    assert parent.exists()
    assert not dead.exists()
    assert (folder / "step-000001").exists()


def test_mean_of_checkpoints(run):
    mean = mean_weights(checkpoints(run))
    states = [read_state(path).weights for path in checkpoints(run)]
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, torch.stack([state[name] for state in states]).mean(0))
