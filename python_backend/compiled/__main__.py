"""`python -m python_backend.compiled` builds."""

from __future__ import annotations

import contextlib
import io
import sys

from python_backend.compiled.builder import main

with contextlib.redirect_stdout(io.TextIOWrapper(sys.stdout.buffer, line_buffering=True)):
    sys.exit(main())
