"""The names that a server without keys answers to.

A page may let its own name point at this machine (DNS rebinding); its browser then takes the server for the page's own
and lets it read all. That name still comes as `Host`, so those are let in alone that no stranger can point anywhere.
"""

import re
from collections.abc import Iterable

from polytask.serving.names import HOST_NAME, is_address
from polytask.serving.refusal import Refusal

HOST = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::\d*)?")  # an IPv6 address in brackets, or a name; a port


def expect_own(host: str, names: Iterable[str]) -> None:
    """Raises Refusal for a Host that is neither localhost nor an address nor one of these names. None at all is let in:
    old probes of health send none, and every browser sends one."""
    found = HOST.fullmatch(host.lower())
    name = (found[1] or found[2] or "").removesuffix(".") if found else host
    own = {"localhost", *(one.lower().removesuffix(".") for one in names)}
    known = HOST_NAME.fullmatch(name) is not None and (name in own or name.endswith(".localhost"))
    if host and not known and not is_address(name):
        raise Refusal(403, f"This server does not answer to the name '{name[:100]}'; ask it as localhost or by its "
                           "address, or start it with --allow-host and that name.", code="unknown_host")  # fmt: skip
