"""What is minimised: an objective turns a network and a batch into a sum of losses and the weight to divide it by."""

from polytask.registry import Registry

OBJECTIVES = Registry(
    "objective",
    {
        "next_token": "polytask.training.objectives.language:LanguageModelling",
        "prefix": "polytask.training.objectives.language:LanguageModelling",
        "span_corruption": "polytask.training.objectives.language:LanguageModelling",
        "seq2seq": "polytask.training.objectives.language:SequenceToSequence",
        "denoising": "polytask.training.objectives.diffusion:Denoising",
        "contrastive": "polytask.training.objectives.contrastive:Contrastive",
        "classifying": "polytask.training.objectives.classifying:Classifying",
        "dvae": "polytask.training.objectives.dvae:Autoencoding",
        "prior": "polytask.training.objectives.prior:DiffusionPrior",
    },
)
