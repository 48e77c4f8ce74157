"""Who has called, where the front before the entries says so: the request parameter `ppipe-caller`.

The front (ppipe front) sends each request's address in a header of this name, in place of what the client may
have put there, and Triton passes the header on as a parameter, after those of the request itself. Who reaches
an entry without the front can say what he likes: entries are to be closed to all but the front. Of a known
caller the name begins with KNOWN: while too many frames are open, strangers' come after his.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CALLER: Final = "ppipe-caller"
KNOWN: Final = "known/"
_LONGEST: Final = 64
"""Characters that are told apart: an address has fewer."""


def caller_of(parameters: Mapping[str, Any]) -> str:
    """'' where nobody says."""
    return str(parameters.get(CALLER, ""))[:_LONGEST]


def is_known(caller: str) -> bool:
    """Whether the front was told to know who this is (ppipe front --known, --client-ca)."""
    return caller.startswith(KNOWN)
