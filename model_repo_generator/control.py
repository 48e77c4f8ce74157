"""What a server's command line closes: nobody may change over the network what it loads and maps.

Rules
- Triton's only lock is a header, `name: value`, which stands on the command line for every user of the host
  to read, and which releases before 26.03 let callers get around (CVE-2026-24207). So what matters most is
  closed without it: in poll mode there is no loading through the API at all.
- What has no other switch, shared memory, trace and log settings, gets a header that no message can carry, so
  that reading it helps nobody. Over HTTP its value has a line's end in it, which ends a header. Over HTTP/2
  values may hold anything, of any length (2.51 took a line's end, and 125,000 characters), but the name of a
  header has no capitals (RFC 9113), and gRPC refuses the message.
"""

from __future__ import annotations

from typing import Final

CONTROL_APIS = "model-repository,shared-memory,trace,logging"
HTTP_HEADER = "ppipe-closed=no\nbody"
GRPC_HEADER = "Sent By Nobody=-"


NAMED_CALLERS: Final = (
    "--http-header-forward-pattern=^ppipe-caller$",
    "--grpc-header-forward-pattern=^ppipe-caller$",
)
"""Flags: a dispatcher is told who has called, by the header that the front sends (frames.caller)."""


def closed_apis() -> tuple[str, str]:
    """The flags that close them."""
    return (
        f"--http-restricted-api={CONTROL_APIS}:{HTTP_HEADER}",
        f"--grpc-restricted-protocol={CONTROL_APIS}:{GRPC_HEADER}",
    )
