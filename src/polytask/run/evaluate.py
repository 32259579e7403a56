"""x"""


def scoring(recipe, network, tokenizer):
    return None
