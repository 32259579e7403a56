"""GPT-4 (OpenAI 2023, arXiv:2303.08774): what is published of it, which is no architecture.

The report says that it is "a Transformer-style model pre-trained to predict the next token", that it reads text and
images and writes text, and that it was then tuned with reinforcement learning from human feedback. It withholds, in so
many words, "architecture (including model size), hardware, training compute, dataset construction, training method".
So there is nothing here to build: the row has no configuration and no count. Rumours are no source.

What its own section 3 does publish is how its loss and its share of solved problems were predicted from much smaller
runs; `SCALING` holds those forms.
"""

from polytask.models.published import Publication, Published

PAPER = Publication(
    title="GPT-4",
    year=2023,
    paper="OpenAI 2023, arXiv:2303.08774",
    special="reads images too; its loss was predicted from runs with a ten-thousandth of its compute",
    unpublished=("architecture", "size", "hardware", "compute", "data", "training method"),
)

SIZES = {
    "": Published(
        None,
        PAPER,
        "section 2",
        training={
            "context": (8192, 32_768),
            "stages": ("next token", "reinforcement learning from human feedback, with rule-based reward models"),
        },
    )
}

# Section 3: compute C is in units of GPT-4's own.
SCALING = {
    "loss": {
        "form": "L(C) = a C^b + c", "metric": "bits per word of code that training never saw",
        "largest_run_of_the_fit": 1e-4,
    },
    "capability": {
        "form": "-mean(log(pass_rate(C))) = alpha C^-k", "metric": "HumanEval, 23 problems of one bucket of difficulty",
        "largest_run_of_the_fit": 1e-3,
    },
}  # fmt: skip
