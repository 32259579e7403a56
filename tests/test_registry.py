"""What is said of a name that is not there."""

import pytest

from polytask.registry import nearest


@pytest.mark.parametrize(
    ("name", "names", "meant"),
    [
        ("temprature", ("temperature", "top_p"), "temperature"),
        ("max_tokens", ("min_tokens", "max_output_tokens"), "max_output_tokens"),
        ("max_tokens", ("max_context_tokens_of_pictures", "max_new_tokens"), "max_new_tokens"),
        ("n_heads", ("n_head", "n_kv_heads"), "n_head"),
    ],
)
def test_the_nearest_name(name, names, meant):
    assert nearest(name, names) == f"did you mean '{meant}'?"


def test_all_names_where_none_is_near():
    assert nearest("zzz", ("b", "a")) == "there are: a, b."
    assert nearest("zzz", ()) == "there are: none."
