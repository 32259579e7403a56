"""What requests may hold: the fields that several routes share, and how they become dials of sampling."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from polytask.inference.constrained import Guide
from polytask.inference.sampling import Sampling
from polytask.registry import nearest
from polytask.serving.refusal import UNKNOWN, Refusal
from polytask.serving.shelf import Served
from polytask.tasks import Task

Stop = Annotated[str, Field(min_length=1, max_length=1000)]
OWN = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "n", "min_tokens", "beam_size", "length_penalty", "stop",
)  # fmt: skip
TokenId = Annotated[str, Field(pattern=r"^\d{1,9}$")]
PAIRS = 10_000  # of a mapping
MOST = 10  # pictures of a request, as the OpenAI API has it
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}  # beside JSON


def _few(given: Any) -> Any:
    """Refuses a mapping without an end before its items are looked at: each that is wrong would have an error."""
    if isinstance(given, dict) and len(given) > PAIRS:
        raise PydanticCustomError("too_long", "Dictionary should have at most {most} items", {"most": PAIRS})
    return given


Few = BeforeValidator(_few)


class Strict(BaseModel):
    """No field that is not named, no text for a number, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    ELSEWHERE: ClassVar[str] = ""  # where fields belong that are not here

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """Says of a field that is not there which one is like it."""
        if cls.model_config.get("extra") == "forbid" and isinstance(given, dict):
            names = {field.alias or name for name, field in cls.model_fields.items()}
            for name in given:
                if name not in names:
                    hint = " ".join(filter(None, (nearest(name[:100], names), cls.ELSEWHERE)))
                    raise PydanticCustomError(UNKNOWN, "{hint}", {"name": name[:100], "hint": hint})
        return given


class Form(Strict):
    """The form that an answer is held to. regex and lark are polytask's own: a pattern, a grammar."""

    model_config = ConfigDict(extra="ignore")
    FIELD: ClassVar[str]  # of a request
    PLACE: ClassVar[str]  # of the JSON Schema in it
    type: Literal["text", "json_object", "json_schema", "regex", "lark"]
    pattern: str | None = None
    grammar: str | None = None

    @property
    def schema_said(self) -> Any:
        raise NotImplementedError

    def guide(self) -> Guide | None:
        """Raises Refusal where the form is missing, ConfigError where it is broken."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Guide.json()
        if self.type == "json_schema":
            return Guide.schema(_there(self.schema_said, f"{self.FIELD}.{self.PLACE}"))
        if self.type == "regex":
            return Guide.regex(_there(self.pattern, f"{self.FIELD}.pattern"))
        return Guide.lark(_there(self.grammar, f"{self.FIELD}.grammar"))


class ResponseFormat(Form):
    """As all routes but `/v1/responses` have it."""

    FIELD, PLACE = "response_format", "json_schema.schema"
    json_schema: dict[str, Any] | None = None

    @property
    def schema_said(self) -> Any:
        return (self.json_schema or {}).get("schema")


def _there(value: Any, param: str) -> Any:
    if value is None:
        raise Refusal(400, f"'{param}' is missing.", param=param)
    return value


class Writing(Strict):
    """How an answer is written. Those after `logit_bias` are polytask's own; of `priority` lower ones go first."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16, fail_fast=True)] | None = None
    logit_bias: Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Few] | None = None
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    min_tokens: int | None = Field(None, ge=0, lt=2**31)
    beam_size: int | None = Field(None, ge=1, le=128)
    length_penalty: float | None = Field(None, ge=0, le=100)
    priority: int | None = Field(None, ge=-(2**31), lt=2**31)


class Dials(Writing):
    """The same where a request may have several answers."""

    n: int | None = Field(None, ge=1, le=128)
    response_format: ResponseFormat | None = None


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class Named(Strict):
    """What says which model is asked, and fields that change nothing here."""

    model: str | None = Field(None, max_length=1000)
    user: str | None = None
    metadata: Annotated[dict[str, str], Few] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class Usual(Strict):
    """Fields of conversations that change nothing here, where they are at their usual values; see `expect_usual`."""

    moderation: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None


KEPT = "the cache keeps what it has room for"
UNREASONED = "no model here reasons before it answers"
WORDY = "no model here has a dial for the length of answers; ask for it in words"


def sampling(served: Served, task: str | Task, body: Writing, max_tokens: int | None, **more: Any) -> Sampling:
    """The dials of a request; what it does not say is as the task is answered otherwise. None for max_tokens leaves
    the answer all of the context. Raises ConfigError and Refusal for what does not go together."""
    given = {name: value for name in OWN if (value := getattr(body, name, None)) is not None}
    if "top_p" in given:
        given["top_p"] = max(given["top_p"], 1e-9)
    if isinstance(given.get("stop"), list):
        given["stop"] = tuple(given["stop"])
    if body.logit_bias:
        given["logit_bias"] = {int(i): value for i, value in body.logit_bias.items()}
    if isinstance(body, Dials) and body.response_format is not None and "guide" not in more:
        given["guide"] = body.response_format.guide()
    given["max_tokens"] = max_tokens or served.model.engine.length
    made = served.model.sampling(task, **given | more)
    free = made.guide is None or made.min_tokens == 0
    expect(free, "'min_tokens': an answer of a given form ends where the form does; leave one of them out.",
           "min_tokens", None)  # fmt: skip
    return made


def expect_usual(body: Usual, others: Iterable[tuple[str, Any, Sequence[Any], str]]) -> None:
    """Raises Refusal for a field that changes nothing here, where it is neither left out nor at a usual value.
    others: of fields of one route the name, the value, those that are usual, and why no other can be had."""
    own = (
        ("moderation", body.moderation, (), "nothing is moderated here"),
        ("prompt_cache_options", body.prompt_cache_options, (), KEPT),
        ("prompt_cache_retention", body.prompt_cache_retention, ("in_memory",), KEPT),
    )
    for param, value, usual, why in (*own, *others):
        expect(not value or value in usual, f"'{param}': {why}; leave it out.", param)


def expect(fits: bool, message: str, param: str, code: str | None = "unsupported_value") -> None:
    """Raises Refusal (400) where a request asks for what is not there."""
    if not fits:
        raise Refusal(400, message, param=param, code=code)
