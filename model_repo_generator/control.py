"""What a server's command line closes: nobody may change over the network what it loads and maps.

Rules
- Triton's only lock is a header, `name: value`, whose value stands on the command line for every user of the
  host to read, and which releases before 26.03 let callers get around (CVE-2026-24207). So what matters most
  is closed without it: in poll mode there is no loading through the API at all.
- What has no other switch, shared memory, trace and log settings, gets a value that no message can carry, so
  that reading it helps nobody. Over HTTP: a line's end, which ends a header. Over HTTP/2 a line's end can be
  sent (seen on 2.51), but gRPC takes no headers above 16 KiB.
"""

from __future__ import annotations

CONTROL_APIS = "model-repository,shared-memory,trace,logging"
HEADER = "ppipe-closed"
_HTTP_VALUE = "no\nbody"
_GRPC_VALUE = "nobody-" * 5_000


def closed_apis() -> tuple[str, str]:
    """The flags that close them."""
    return (
        f"--http-restricted-api={CONTROL_APIS}:{HEADER}={_HTTP_VALUE}",
        f"--grpc-restricted-protocol={CONTROL_APIS}:{HEADER}={_GRPC_VALUE}",
    )
