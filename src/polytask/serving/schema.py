"""What requests may hold: the fields that several routes share, and how they become dials of sampling."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from polytask.inference.constrained import Guide
from polytask.inference.sampling import Sampling
from polytask.serving.refusal import Refusal
from polytask.serving.shelf import Served
from polytask.tasks import Task

Stop = Annotated[str, Field(min_length=1, max_length=1000)]
OWN = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "n", "min_tokens", "beam_size", "length_penalty", "stop",
)  # fmt: skip
MOST = 10  # pictures of a request, as the OpenAI API has it
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}  # beside JSON


class Strict(BaseModel):
    """No field that is not named, no text for a number, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ResponseFormat(Strict):
    """The form that an answer is held to. regex and lark are polytask's own: a pattern, a grammar."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["text", "json_object", "json_schema", "regex", "lark"]
    json_schema: dict[str, Any] | None = None
    pattern: str | None = None
    grammar: str | None = None

    def guide(self, param: str = "response_format") -> Guide | None:
        """Raises Refusal where the form is missing, ConfigError where it is broken."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Guide.json()
        if self.type == "json_schema":
            schema = (self.json_schema or {}).get("schema")
            return Guide.schema(_there(schema, f"{param}.json_schema.schema"))
        if self.type == "regex":
            return Guide.regex(_there(self.pattern, f"{param}.pattern"))
        return Guide.lark(_there(self.grammar, f"{param}.grammar"))


def _there(value: Any, param: str) -> Any:
    if value is None:
        raise Refusal(400, f"'{param}' is missing.", param=param)
    return value


class Dials(Strict):
    """How an answer is written. Those after `logit_bias` are polytask's own."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int | None = Field(None, ge=1, le=128)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None = (
        None
    )
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    min_tokens: int | None = Field(None, ge=0, lt=2**31)
    beam_size: int | None = Field(None, ge=1, le=128)
    length_penalty: float | None = Field(None, ge=0, le=100)
    response_format: ResponseFormat | None = None


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class Named(Strict):
    """What says which model is asked, and fields that change nothing here."""

    model: str | None = Field(None, max_length=1000)
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


def sampling(served: Served, task: str | Task, body: Dials, max_tokens: int | None, **more: Any) -> Sampling:
    """The dials of a request; what it does not say is as the task is answered otherwise. None for max_tokens leaves
    the answer all of the context."""
    given = {name: value for name in OWN if (value := getattr(body, name)) is not None}
    if "top_p" in given:
        given["top_p"] = max(given["top_p"], 1e-9)
    if isinstance(given.get("stop"), list):
        given["stop"] = tuple(given["stop"])
    if body.logit_bias:
        given["logit_bias"] = {int(i): value for i, value in body.logit_bias.items()}
    if body.response_format is not None:
        given["guide"] = body.response_format.guide()
    given["max_tokens"] = max_tokens or served.model.engine.length
    return served.model.sampling(task, **given | more)


def expect(fits: bool, message: str, param: str, code: str | None = "unsupported_value") -> None:
    """Raises Refusal (400) where a request asks for what is not there."""
    if not fits:
        raise Refusal(400, message, param=param, code=code)
