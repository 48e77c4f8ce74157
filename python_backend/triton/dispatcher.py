"""The Triton model of a dispatcher: requests go to dispatcher.requests, all else to dispatcher.driver."""

from __future__ import annotations

import os
from typing import Any

import triton_python_backend_utils as pb_utils

from python_backend.compiled import code_in_use
from python_backend.dispatcher.entries.this_entry import this_entry
from python_backend.dispatcher.factory import make_dispatcher, show_metrics
from python_backend.dispatcher.requests import Requests, Triton
from python_backend.triton.bytes_elements import use_views
from python_backend.triton.garbage import leave_start_alone
from python_backend.triton.model_folder import open_model_folder
from python_backend.triton.pretouch import start_pretouch
from python_backend.triton.replies import error_response, send_error, send_outputs
from python_backend.triton.time_slices import take_short_slices


class TritonPythonModel:
    """See the module."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once."""
        use_views(pb_utils)
        folder = open_model_folder(args)
        manifest = folder.manifest.seen_from(this_entry(folder.manifest))
        entry = manifest.model(folder.parameter("model"))
        self._dispatcher = make_dispatcher(manifest, entry, folder.parameters, pb_utils.Logger.log_warn)
        pb_utils.Logger.log_info(f"{folder.name}: {code_in_use()}")
        self._metrics = show_metrics(self._dispatcher, manifest, entry, pb_utils.Logger.log_warn)
        triton = Triton(send_outputs, send_error, error_response)
        self._requests = Requests(entry, self._dispatcher.driver, self._dispatcher.forwarded, triton)
        leave_start_alone()
        if entry.dispatcher == min(each.dispatcher for each in manifest.models):  # one for the whole server
            server, warn = manifest.entry, pb_utils.Logger.log_warn
            start_pretouch(os.getppid(), server.host, server.http_port, warn)
        self._was_flooded = False

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Called by Triton with whatever has come. Returns the answers to requests that find no room, and
        None in place of all others, which the dispatcher's threads answer later.
        """
        refusals = self._requests.take(requests)
        if refusals is not None and not self._was_flooded:
            self._was_flooded = True
            for process in (os.getppid(), os.getpid()):  # the server and this one
                take_short_slices(process)
        return refusals

    def finalize(self) -> None:
        """Called by Triton before the end."""
        if self._metrics is not None:
            self._metrics.close()
        self._dispatcher.close()
