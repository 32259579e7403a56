"""Models of the Hugging Face hub by their names: what we read of them is downloaded once, into the hub's own cache.

Only weights in safetensors, configurations, tokenizers, tasks and the card are taken, never a pickle and never code.
Without a network (or with HF_HUB_OFFLINE=1) the cache answers alone.
"""

import re
from pathlib import Path

from polytask.errors import CheckpointError

WANTED = ("*.safetensors", "*.json", "*.model", "*.spm", "merges.txt", "*.jinja", "README.md", "tasks/*.yaml")
OTHERS = ("onnx/*", "openvino/*", "original/*", "consolidated*")  # the same weights once more
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_name(text: str) -> bool:
    """Whether it is spelled as owner/name."""
    return _NAME.fullmatch(text) is not None


def fetch(name: str) -> Path:
    """The folder of a model in the cache, downloaded where it is not there. Raises CheckpointError."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    nowhere = f"There is no checkpoint at {name}, and"
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(WANTED), ignore_patterns=list(OTHERS)))
    except GatedRepoError:
        raise CheckpointError(
            f"{nowhere} the hub gives its model {name} only to those who agreed to its terms: do so on its page there, "
            "then run: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{nowhere} the hub has no model {name} that it shows you: look at the spelling, or, where it is private, "
            "run: hf auth login"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        partly = "whole " if type(error).__name__ == "IncompleteSnapshotError" else ""
        raise CheckpointError(
            f"{nowhere} the hub's cache {constants.HF_HUB_CACHE} does not hold the {partly}model {name}, which could "
            f"not be downloaded: {why}. Connect, or give a folder."
        ) from None
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(_without_weights(name))
    return folder


def _without_weights(name: str) -> str:
    """Why a model of the hub has nothing for us."""
    from huggingface_hub import HfApi

    try:
        pickles = [file for file in HfApi().list_repo_files(name) if file.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    except Exception:  # the library's transport has errors of its own; what matters has been found out
        pickles = []
    if not pickles:
        return f"The hub's model {name} has no weights in safetensors."
    return (
        f"The hub's model {name} has its weights in {pickles[0]} alone, a pickle, which can run code when read. "
        "Convert it where you trust it, with transformers: "
        f"AutoModel.from_pretrained('{name}').save_pretrained(FOLDER); then give FOLDER."
    )
