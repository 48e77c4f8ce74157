"""The Triton model of a cascade: unpacks requests, leaves all else to python_backend.cascade."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from python_backend.cascade.asking import Refusal
from python_backend.cascade.frames import Given
from python_backend.cascade.parent import Outputs, empty_answer
from python_backend.cascade.service import PASSED_ON, CascadeService
from python_backend.cascade.tables import CascadeTables, table_at_start
from python_backend.dispatcher.entries.this_entry import this_entry
from python_backend.dispatcher.frames.frame import ErrorCode
from python_backend.dispatcher.metrics.page import Make, open_page
from python_backend.triton.garbage import leave_start_alone
from python_backend.triton.model_folder import open_model_folder
from python_backend.triton.replies import send_error, send_outputs
from python_backend.wire import ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.handed_over import folder_of_tables
from python_backend.wire.parameters.priority import priority_of
from python_backend.wire.parameters.stream_place import STREAM, stream_place_of

_FORWARDED = (*PASSED_ON, STREAM)
_CODES = {"UNAVAILABLE": ErrorCode.UNAVAILABLE, "INVALID_ARGUMENT": ErrorCode.INVALID}


class TritonPythonModel:
    """See the module."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once."""
        folder = open_model_folder(args)
        log = pb_utils.Logger.log_warn
        manifest = folder.manifest.seen_from(this_entry(folder.manifest))
        cascade = manifest.cascade(folder.parameter("cascade"))
        tables = folder_of_tables(log)
        start = table_at_start(tables, manifest, cascade, log)
        self._service = CascadeService(manifest, start.cascade, log)
        self._tables = None if tables is None else CascadeTables(tables, start, self._service.serve_by, log)
        if self._tables is not None:
            self._tables.start()
        self._names = tuple(spec.name for spec in self._service.first.public_inputs)
        address = (manifest.entry.host, cascade.metrics_port)
        self._page = open_page(cascade.name, self._load_page, address, log)
        leave_start_alone()

    def execute(self, requests: list[Any]) -> None:
        """Called by Triton with whatever has come; answers are sent later by the service's threads."""
        arrived_us = now_us()
        for request in requests:
            self._take(request, arrived_us)

    def finalize(self) -> None:
        """Called by Triton before the end."""
        if self._page is not None:
            self._page.close()
        if self._tables is not None:
            self._tables.close()
        self._service.close()

    def _load_page(self) -> Make:
        from python_backend.cascade.page import CascadePage

        service = self._service
        return CascadePage(lambda: service.cascade, service.counts, lambda: service.streams.held).make

    def _take(self, request: Any, arrived_us: int) -> None:
        sender = request.get_response_sender()
        try:
            text = request.parameters()
            parameters = json.loads(text) if text else {}
            if ticket_codec.is_anonymous_probe(parameters.get(ticket_codec.PARAMETER)):
                send_outputs(sender, empty_answer(self._service.cascade))
                return
            given = self._given(request)
            priority_of(parameters)
            of = stream_place_of(parameters)
        except (ValueError, TypeError) as error:
            send_error(sender, ErrorCode.INVALID, str(error))
            return
        except Exception as error:
            send_error(sender, ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")
            return
        forwarded: Mapping[str, Any] = {
            name: value for name, value in parameters.items() if name in _FORWARDED
        }
        caller = _WaitingCaller(request, sender)
        self._service.arrive(given, forwarded, arrived_us, request.timeout(), caller, of)

    def _given(self, request: Any) -> Given:
        """The inputs that a request has. Raises ValueError unless it is one frame."""
        tensors = ((name, pb_utils.get_input_tensor_by_name(request, name)) for name in self._names)
        given = {name: tensor.as_numpy() for name, tensor in tensors if tensor is not None}
        for name, array in given.items():
            if len(array) != 1:
                raise ValueError(
                    f"input {name}: {len(array)} frames; a request of a cascade has one: send them one by one"
                )
        return given


class _WaitingCaller:
    """Holds the request: the frame is a view of its tensors as long as it is open."""

    def __init__(self, request: Any, sender: Any) -> None:
        self._request = request
        self._sender = sender

    def outputs(self, outputs: Outputs) -> None:
        """See Caller."""
        try:
            send_outputs(self._sender, outputs)
        except Exception as error:  # nothing was sent, and a caller without an answer waits for ever
            send_error(self._sender, ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")
        self._request = None

    def refuse(self, refusal: Refusal) -> None:
        """See Caller."""
        send_error(self._sender, _CODES.get(refusal.code, ErrorCode.INTERNAL), refusal.text)
        self._request = None

    def is_cancelled(self) -> bool:
        """See Caller."""
        return bool(self._request.is_cancelled())
