"""Werkzeug's middleware around small pages: `proxied` by ProxyFix, `debugged` by its debugger."""

from __future__ import annotations

from werkzeug.debug import DebuggedApplication
from werkzeug.middleware.proxy_fix import ProxyFix

from frameworks.sites.middleware import pages

proxied = ProxyFix(pages, x_for=1, x_proto=1, x_host=1, x_port=1, x_prefix=1)
debugged = DebuggedApplication(pages, pin_security=False)
