"""front: the configuration of an nginx before the entries, for clients whom one does not trust."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def front(
    repository: Annotated[Path, typer.Argument(help="Folder of a generated repository.")],
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="standard output")] = None,
    listen: Annotated[str, typer.Option(help="Address; others than loopback need a certificate.")] = (
        "127.0.0.1"
    ),
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="For clients over HTTP.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535, help="For clients over gRPC.")] = 8001,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, with --key: for TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
    connections: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_535,
            help="Requests of one address at a time; default: half of what is served in an SLO, or 64.",
        ),
    ] = None,
    all_connections: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_535, help="Of all callers at a time; default: what dispatchers let be open."
        ),
    ] = None,
    requests_per_s: Annotated[
        int | None,
        typer.Option(min=1, help="Of one address; default: 1.5 times what is planned, or 100."),
    ] = None,
    body_bytes: Annotated[
        int | None, typer.Option(min=1, help="Of a request.", show_default="the largest frame of the models")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="Whose web pages may ask; may be repeated.", show_default="none")
    ] = None,
    known: Annotated[
        list[str] | None,
        typer.Option(help="Network of known callers, as 10.1.0.0/16; may be repeated.", show_default="none"),
    ] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="PEM file; who shows a certificate of this CA is known.")
    ] = None,
    known_share: Annotated[
        float, typer.Option(help="Of what the plan serves, kept for known callers.")
    ] = 0.8,
    folder: Annotated[Path, typer.Option(help="Of nginx's own files; must exist.")] = Path(
        "/var/lib/ppipe-front"
    ),
) -> None:
    """Write the configuration of an nginx that stands before the entries: what strangers may send, how much
    and how fast. See docs/security.md.
    """
    from model_repo_generator.front import FrontOptions, render_front
    from ppipe.serving.launcher import load_manifest

    text = render_front(
        load_manifest(repository),
        FrontOptions(
            listen=listen,
            http_port=http_port,
            grpc_port=grpc_port,
            certificate=certificate,
            key=key,
            connections=connections,
            all_connections=all_connections,
            requests_per_s=requests_per_s,
            body_bytes=body_bytes,
            origins=tuple(origin or ()),
            known=tuple(known or ()),
            client_ca=client_ca,
            known_share=known_share,
            folder=folder,
        ),
    )
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
