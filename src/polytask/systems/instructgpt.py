"""InstructGPT (Ouyang et al. 2022, arXiv:2203.02155), and what is public of ChatGPT.

What is its own is no network but three stages of training on GPT-3's: supervised fine-tuning (SFT), a reward model (RM)
that learns from rankings of 4 to 9 answers, and reinforcement learning against it (PPO, and PPO-ptx, which mixes
pre-training in). Policies have 1.3B, 6B and 175B parameters; one reward model of 6B, whose output matrix is a single
column, judges all of them, and value networks begin as it. "6B" is GPT-3's row of 6.7B.

Not public: learning rates of the released policies (scans between 2.55e-6 and 2.55e-5 are), GAE's lambda, clipping of
values, whitening of rewards. Of GPT-3.5 and ChatGPT no size and no hyperparameter is public.
"""

from typing import Any

from polytask.models.published import Publication, Published
from polytask.systems.gpt3 import SIZES as GPT3

PAPER = Publication(
    title="InstructGPT",
    year=2022,
    paper="Ouyang et al. 2022, arXiv:2203.02155",
    special="GPT-3 tuned in three stages: demonstrations, a model of rankings, reinforcement against it",
    unpublished=(
        "learning rate of the released policies",
        "lambda of GAE",
        "clipping of values",
        "whitening of rewards",
    ),
)
CHAT = Publication(
    title="ChatGPT",
    year=2022,
    paper="OpenAI, 30 November 2022 (an announcement)",
    special="InstructGPT's method on conversations, from a model of the GPT-3.5 series",
    unpublished=("architecture", "size", "hardware", "compute", "data", "hyperparameters"),
)

# Appendices A.3 and C: prompts of each stage.
PROMPTS = {"sft": 12_725, "reward": 33_207, "ppo": 31_144}
REWARD = {
    "epochs": 1, "lr": 9e-6, "schedule": "cosine to a tenth", "batch_prompts": 64, "answers_ranked": (4, 9),
    "loss": "-mean over the pairs of a prompt of log sigmoid(better - worse)",
}  # fmt: skip


def _policy(size: str, parameters: float, sft: dict, first: dict, value_lr: float) -> Published:
    """sft and first: learning rate and batch of SFT and of the model that PPO begins with."""
    stages = {
        "sft": {"epochs": 16, "schedule": "cosine to a tenth, no warm-up", "dropout": 0.2, "betas": (0.9, 0.95)} | sft,
        "ppo_begins_with": {"epochs": 2, "pretraining_share": 0.1} | first,
        "ppo": {
            "episodes": 256_000, "batch": 512, "minibatch": 64, "epochs": 1, "clip": 0.2, "kl": 0.02,
            "schedule": "constant after 10 iterations from a tenth", "ema": 0.992, "gamma": 1.0, "temperature": 1.0,
            "value_lr": value_lr,
        },
        "ppo_ptx": {"coefficient": 27.8, "pretraining_examples_per_episode": 8},
    }  # fmt: skip
    return _base(size, parameters, "appendix C", stages)


def _base(size: str, parameters: float, source: str, training: dict[str, Any], **words: Any) -> Published:
    row, tolerance = GPT3[size], 0.12  # the 6.7B row is named 6B
    difference = "it is GPT-3's row of 6.7B, which this paper calls 6B" if size == "6.7b" else ""
    return Published(
        row.config, PAPER, source, parameters, tolerance=tolerance, exact=row.exact, training=training,
        difference=difference, **words,
    )  # fmt: skip


SIZES = {
    "1.3b": _policy("xl", 1.3e9, {"lr": 9.65e-6, "batch": 32}, {"lr": 5e-6, "batch": 32}, 9e-6),
    "6b": _policy("6.7b", 6e9, {"lr": 9.65e-6, "batch": 32}, {"lr": 1.04e-5, "batch": 32}, 9e-6),
    "175b": _policy("175b", 175e9, {"lr": 5.03e-6, "batch": 8}, {"lr": 2.45e-6, "batch": 8}, 5e-6),
    "reward-6b": _base(
        "6.7b", 6e9, "appendix C.2", {"reward": REWARD}, printed={"output": "one column in place of the vocabulary's"}
    ),
}
CHATGPT = {
    "": Published(
        None,
        CHAT,
        "the announcement",
        training={
            "base": "a model of the GPT-3.5 series that was finished early in 2022",
            "gpt-3.5": {
                "code-davinci-002": "the base",
                "text-davinci-002": "supervised, on demonstrations and highly rated samples",
                "text-davinci-003": "PPO",
            },
            "data": "conversations whose trainers wrote both sides, mixed with InstructGPT's in form of dialogues",
            "stages": ("sft", "reward", "ppo, several rounds"),
        },
    )
}
