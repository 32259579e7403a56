"""Small random models behind an app, asked in this process; and one real server for what only a process shows."""

import httpx
import pytest

from polytask.model import Model
from polytask.serving.app import create_app
from polytask.serving.settings import Settings
from tests.inference.networks import TOKENIZER, network


@pytest.fixture(scope="session")
def model():
    return Model(network(context=256), TOKENIZER)


@pytest.fixture
def make_app(model):
    """Apps over models, closed in the end."""
    made = []

    def make(models=None, **limits):
        app = create_app(models or {"tiny": model}, Settings(**limits))
        made.append(app)
        return app

    yield make
    for app in made:
        app.state.shelf.close()


def client_of(app, **words):
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test", **words
    )
