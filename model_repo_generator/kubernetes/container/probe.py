"""Health of this container's server: every Python process of its models must answer an inference.

    probe.py           startup, readiness, liveness
    probe.py full      a real frame through every public model, for people and smoke tests

Rules
- Standard library only: this runs in whatever Python the image has.
- A model that Triton calls ready may have a dead Python process, so only an answer counts.
- A probe takes no worker's time and is no frame in anybody's statistics: stages answer a probe ticket beside
  their order, a dispatcher by way of its queue.
- Of a dispatcher that prepares frames a client gives the first input and not the second, which is the first
  prepared; all others always.
- Nothing outside this container is asked: a server must not be restarted because another one is down.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

NAME_VARIABLE = "PPIPE_SERVER"
TICKET = '{"probe": true}'
TIMEOUT_S = 8.0
FULL_TIMEOUT_S = 60.0
FULL_SLO_US = 30_000_000
"""Deadline of a real frame: it should show whether the way is open, not whether it is quick while cold."""
DTYPE_BYTES = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2,
    "INT32": 4, "UINT32": 4, "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8,
}  # fmt: skip
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAFA3PEY8MlBGQUZaVVBfeMiCeG5uePWvuZHI////////////////////////////"
    "////////////////////////2wBDAVVaWnhpeOuCguv/////////////////////////////////////////////////////"
    "////////////////////wAARCAAQABADASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAH/xAAUEAEAAAAAAAAAAAAA"
    "AAAAAAAA/8QAFAEBAAAAAAAAAAAAAAAAAAAAAv/EABQRAQAAAAAAAAAAAAAAAAAAAAD/2gAMAwEAAhEDEQA/AIAQv//Z"
)
"""A grey image of 16 x 16 pixels."""


class ProbeFault(Exception):
    """What is wrong, in one line."""


class NotLoaded(ProbeFault):
    """The server has not loaded this model, or not yet."""


def main() -> None:
    """Exit with status 0 where all is well, else 1 and a line per fault, which Kubernetes shows as an
    event.
    """
    server = json.loads(Path(__file__).with_name("servers.json").read_text(encoding="utf-8"))["servers"][
        os.environ[NAME_VARIABLE]
    ]
    full = sys.argv[1:] == ["full"]
    faults = []
    for model, kind in (server["public"] if full else asked(server)).items():
        try:
            probe(server["probe_host"], server["http_port"], model, kind)
        except NotLoaded as error:
            if not server["fleet"]:
                faults.append(f"{model}: {error}")
            else:
                print(f"{model}: not loaded")  # an operator may just have asked for it
        except (ProbeFault, OSError, http.client.HTTPException) as error:
            faults.append(f"{model}: {error or type(error).__name__}")
        else:
            print(f"{model}: answers")
    if faults:
        sys.exit("\n".join(faults))


def asked(server: Any) -> dict[str, str]:
    """The models with a Python process, and how each is asked: where an operator changes them, those that are
    there now.
    """
    if not server["fleet"]:
        return dict(server["probes"])
    folder = Path(server["folder"]) / server["repository"]
    found = {path.parent.parent.name for path in folder.glob("*/*/model.py")}
    return {name: "dispatcher" if name in server["public"] else "stage" for name in sorted(found)}


def probe(host: str, port: int, model: str, kind: str) -> None:
    """Ask one model. `kind`: stage, dispatcher or public. Raises ProbeFault, OSError, HTTPException."""
    connection = http.client.HTTPConnection(
        host, port, timeout=FULL_TIMEOUT_S if kind == "public" else TIMEOUT_S
    )
    try:
        status, answer = call(connection, "GET", f"/v2/models/{model}", b"", {})
        if status != 200:
            missing = NotLoaded if status in (400, 404) else ProbeFault
            raise missing(f"no metadata: {status} {text_of(answer)}")
        body, length = question(json.loads(answer), kind)
        headers = {"Inference-Header-Content-Length": str(length)}
        status, answer = call(connection, "POST", f"/v2/models/{model}/infer", body, headers)
    finally:
        connection.close()
    if status != 200:
        raise ProbeFault(f"{status} {text_of(answer)}")


def call(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, bytes]:
    """One HTTP request on a kept connection."""
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def question(metadata: Any, kind: str) -> tuple[bytes, int]:
    """A KServe request with tensors of zeros or of an image after its JSON; and the JSON's length."""
    inputs, tensors = [], []
    for tensor in given(metadata["inputs"], kind):
        # -1 is the batch dimension, or one of free size.
        shape = [max(1, size) for size in tensor["shape"]]
        count = 1
        for size in shape:
            count *= size
        data = zeros(tensor["datatype"], count)
        tensors.append(data)
        inputs.append(
            {
                "name": tensor["name"],
                "datatype": tensor["datatype"],
                "shape": shape,
                "parameters": {"binary_data_size": len(data)},
            }
        )
    parameters: dict[str, Any] = {"binary_data_output": True, "ppipe_ticket": TICKET}
    if kind == "public":
        parameters = {"binary_data_output": True, "timeout": FULL_SLO_US}
    head = json.dumps({"id": "ppipe-probe", "parameters": parameters, "inputs": inputs}).encode()
    return b"".join([head, *tensors]), len(head)


def given(inputs: list[Any], kind: str) -> list[Any]:
    """Those that a caller gives."""
    prepares = inputs[0]["datatype"] == "BYTES" or -1 in inputs[0]["shape"][1:]
    return [*inputs[:1], *inputs[2:]] if prepares and kind != "stage" else inputs


def zeros(datatype: str, count: int) -> bytes:
    """`count` elements: numbers are 0, texts are an image with its length before it."""
    if datatype == "BYTES":
        return (struct.pack("<I", len(JPEG)) + JPEG) * count
    return bytes(count * DTYPE_BYTES[datatype])


def text_of(answer: bytes) -> str:
    """The message of an error, shortened; binary answers are no texts."""
    try:
        return str(json.loads(answer)["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return ""


if __name__ == "__main__":
    main()
