"""Serves one application: `run_app.py module:attribute host|unix:/path options-as-JSON`; prints the port.

Knows: the API that bjoern has had since version 1 (`listen`, `run`).   Must not know: pytest, the tests.
Exit code 0 says that KeyboardInterrupt left `run()`, 3 that `run()` returned by itself.
"""

from __future__ import annotations

import json
import signal
import sys
from importlib import import_module

import bjoern

if __name__ == "__main__":
    spec, host, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have inherited SIG_IGN
    module, _, attribute = spec.partition(":")
    application = getattr(import_module(module), attribute)
    if host.startswith("unix:"):
        sock = bjoern.listen(application, host, **options)
        print("null", flush=True)
    else:
        sock = bjoern.listen(application, host, 0, **options)
        print(sock.getsockname()[1], flush=True)
    try:
        bjoern.run()
    except KeyboardInterrupt:
        sys.exit(0)
    sys.exit(3)
