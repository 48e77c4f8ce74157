"""Lease objects over HTTP as a Kubernetes API server has them: versions, conflicts, lists by label. It knows
nothing of ours, and is no API server: what one does beside that is not tried here.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

_PATH = re.compile(r"/apis/coordination\.k8s\.io/v1/namespaces/([a-z0-9-]+)/leases(?:/([a-z0-9.-]+))?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
TOKEN = "small-api-token"


class SmallApi:
    """A context. stopped: it takes connections and answers none. status: what it answers to all, if not 0."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.status = 0
        self.going = threading.Event()
        self.going.set()
        self._version = 100
        self._lock = threading.Lock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _handle(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                api.going.wait()
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    status, said = 401, failure(401, "Unauthorized")
                else:
                    status, said = api.answer(self.command, self.path, body)
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _handle  # noqa: N815, as http.server calls them

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Callers may have gone."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> SmallApi:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.going.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def write_config(self, path: Path) -> Path:
        """A kubeconfig for it."""
        cluster = {"name": "small", "cluster": {"server": self.url}}
        user = {"name": "me", "user": {"token": TOKEN}}
        context = {"name": "here", "context": {"cluster": "small", "user": "me"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [cluster],
            "users": [user],
            "contexts": [context],
            "current-context": "here",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        url = urlsplit(path)
        found = _PATH.fullmatch(url.path)
        if self.status:
            return self.status, failure(self.status, "it is not well")
        if found is None:
            return 404, failure(404, "the server could not find the requested resource")
        space, name = found[1], found[2] or ""
        with self._lock:
            if method == "GET" and not name:
                return 200, self._list(space, parse_qs(url.query).get("labelSelector", [""])[0])
            if method == "POST" and not name:
                return self._create(space, body)
            if method == "PUT" and name:
                return self._replace(space, name, body)
        return 405, failure(405, "the server does not allow this method")

    def _list(self, space: str, selector: str) -> dict[str, Any]:
        wanted = [part.partition("=")[::2] for part in selector.split(",") if part]
        items = [
            each
            for (where, _), each in sorted(self.objects.items())
            if where == space
            and all(each["metadata"].get("labels", {}).get(key) == value for key, value in wanted)
        ]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "LeaseList",
            "metadata": {"resourceVersion": str(self._version)},
            "items": items,
        }

    def _create(self, space: str, body: Any) -> tuple[int, dict[str, Any]]:
        name = body["metadata"]["name"]
        if (space, name) in self.objects:
            return 409, failure(409, f'leases "{name}" already exists')
        return self._put(201, space, name, body)

    def _replace(self, space: str, name: str, body: Any) -> tuple[int, dict[str, Any]]:
        there = self.objects.get((space, name))
        if there is None:
            return 404, failure(404, f'leases "{name}" not found')
        if body["metadata"].get("resourceVersion") != there["metadata"]["resourceVersion"]:
            return 409, failure(409, "the object has been modified; please apply your changes to the latest")
        return self._put(200, space, name, body)

    def _put(self, status: int, space: str, name: str, body: Any) -> tuple[int, dict[str, Any]]:
        labels, spec = body["metadata"].get("labels", {}), body.get("spec", {})
        if (
            not _NAME.fullmatch(name)
            or not all(_LABEL.fullmatch(value) for value in labels.values())
            or spec.get("holderIdentity") == ""
            or not _TIME.fullmatch(spec.get("renewTime", ""))
        ):
            return 422, failure(422, f'Lease "{name}" is invalid')
        self._version += 1
        metadata = {**body["metadata"], "namespace": space, "resourceVersion": str(self._version)}
        self.objects[space, name] = {**body, "metadata": metadata}
        return status, self.objects[space, name]


def failure(status: int, message: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": message, "code": status}
