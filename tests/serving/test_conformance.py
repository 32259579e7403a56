from tests.serving.artists import by_tokens, diffusion
from tests.serving.conformance import check
from tests.serving.conftest import running, tiny


def test_made_up_requests_never_fail_the_server():
    with running({"tiny": tiny(64), "tokens": by_tokens(), "diffusion": diffusion()}) as (address, _):
        found = check(address, 200)
    assert sum(found.values()) > 100
    answered = {name.rpartition(" ")[0] for name in found}
    assert {"POST /v1/chat/completions", "POST /v1/responses", "POST /v1/tasks/{name}"} <= answered
    assert {f"POST /v1/images/{name}" for name in ("generations", "edits", "variations")} <= answered
    assert any(name.endswith(" 400") for name in found)
