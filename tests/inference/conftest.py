import pytest

from polytask.inference.engine import Engine
from tests.inference.networks import TOKENIZER, network


@pytest.fixture(scope="session")
def decoder():
    return network()


@pytest.fixture(scope="session")
def encoder_decoder():
    return network("transformer")


@pytest.fixture
def engine(decoder):
    return Engine(decoder, TOKENIZER)
