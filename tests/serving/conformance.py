"""Requests made up from a server's own description of itself, by schemathesis: so many for all operations together.
By hand, for more of them than the tests have time for:  python -m tests.serving.conformance 2000
"""

import sys
from collections import Counter

import hypothesis
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving.artists import by_tokens, diffusion
from tests.serving.conftest import running, tiny


def no_failure(context, response, case):
    """As schemathesis' own, but for what the server says that none of its models can."""
    return None if response.status_code == 501 else not_a_server_error(context, response, case)


SAID = [no_failure, content_type_conformance, status_code_conformance, response_schema_conformance]


def check(address: str, examples: int) -> Counter:
    """How often which status was answered. Raises where one is a failure of the server, or none that it tells of."""
    schema, answered = schemathesis.openapi.from_url(address + "/openapi.json"), Counter()
    operations = [operation.ok() for operation in schema.get_all_operations()]
    for operation in operations:
        _ask(operation, max(1, examples // len(operations)), answered)
    return answered


def _ask(operation, examples: int, answered: Counter) -> None:
    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    def ask(case):
        response = case.call(timeout=300)
        answered[f"{operation.method.upper()} {operation.path} {response.status_code}"] += 1
        case.validate_response(response, checks=SAID)

    ask()


if __name__ == "__main__":
    with running({"tiny": tiny(64), "tokens": by_tokens(), "diffusion": diffusion()}) as (place, _):
        found = check(place, int(sys.argv[1]))
    for name, count in sorted(found.items()):
        print(f"{count:6} {name}")
    print(f"{sum(found.values()):6} in all, none of them a failure")
