"""HTTP to this machine's own servers, which no proxy of the environment could reach."""

from __future__ import annotations

import urllib.request

open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""As `urllib.request.urlopen`, without proxies."""
