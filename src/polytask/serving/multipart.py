"""Bodies of forms with files (multipart/form-data, RFC 7578), which the gate has read whole."""

import re
from collections.abc import Iterator

from starlette.requests import Request as HttpRequest

from polytask.serving.refusal import Refusal

KIND = "multipart/form-data"
MOST = 100  # parts
BOUNDARY = re.compile(r'boundary=(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
NAME = re.compile(r'[;\s]name="((?:[^"\\]|\\.)*)"')
FILE = re.compile(r"[;\s]filename\*?=")


async def form(http: HttpRequest) -> tuple[dict[str, str], dict[str, list[bytes]]]:
    """The texts and the files of a form by name, `name[]` being `name`; of a text that comes twice the last.

    Raises Refusal where the body is none, or its texts are not UTF-8.
    """
    found = BOUNDARY.search(http.headers.get("content-type", ""))
    if found is None:
        raise Refusal(415, f"The body must be 'Content-Type: {KIND}' and name its boundary.")
    texts, files = dict[str, str](), dict[str, list[bytes]]()
    for head, content in _parts(await http.body(), (found[1] or found[2]).encode("latin-1")):
        named = NAME.search(head)
        if named is None:
            raise Refusal(400, "A part of the form has no name.")
        name = named[1].removesuffix("[]")
        if FILE.search(head):
            files.setdefault(name, []).append(content)
            continue
        try:
            texts[name] = content.decode()
        except UnicodeDecodeError:
            raise Refusal(400, f"'{name[:100]}': this is not UTF-8.", param=name[:100]) from None
    return texts, files


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[str, bytes]]:
    """The header that says what a part is, and its content. Raises Refusal."""
    mark = b"\r\n--" + boundary
    first, *parts = (b"\r\n" + body).split(mark, MOST + 2)
    if first or not parts or not parts[-1].startswith(b"--"):
        raise Refusal(400, f"The body is no whole form (multipart/form-data) of at most {MOST} parts.")
    for part in parts[:-1]:
        head, blank, content = part.partition(b"\r\n\r\n")
        if not blank:
            raise Refusal(400, "A part of the form has no content.")
        lines = head.decode("utf-8", "replace").split("\r\n")
        yield next((line for line in lines if line.lower().startswith("content-disposition:")), ""), content
