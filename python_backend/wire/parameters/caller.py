"""Who has called, where the front before the entries says so: the request parameter `ppipe-caller`.

The front (ppipe front) sends each request's address in a header of this name, in place of what the client may
have put there, and Triton passes the header on as a parameter, after those of the request itself. Who reaches
an entry without the front can say what he likes: entries are to be closed to all but the front.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CALLER: Final = "ppipe-caller"
_LONGEST: Final = 64
"""Characters that are told apart: an address has fewer."""


def caller_of(parameters: Mapping[str, Any]) -> str:
    """'' where nobody says."""
    return str(parameters.get(CALLER, ""))[:_LONGEST]
