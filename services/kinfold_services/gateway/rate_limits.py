"""Rate limits: a token bucket for each key and address.

A bucket holds `burst` requests and refills at `per_s` a second. Gateways do not share buckets: two of them allow twice as much.
"""

import math
import time
from collections import OrderedDict
from typing import Final

from litestar.status_codes import HTTP_429_TOO_MANY_REQUESTS

from kinfold_services.gateway.problems import Problem

_BUCKETS: Final = 50_000
"""At most this many buckets. The least recently used one is dropped: it would soon be full anyway."""


class RateLimit:
    """Token buckets of one size."""

    def __init__(self, per_s: float, burst: int) -> None:
        self.per_s: Final = per_s
        self.burst: Final = burst
        self._buckets: Final[OrderedDict[tuple[str, str], tuple[float, float]]] = OrderedDict()

    def take(self, who: str, address: str) -> None:
        """Take one request out of a bucket. Raises Problem (429) if the bucket is empty."""
        now = time.monotonic()
        bucket = (who, address)
        filled_at, tokens = self._buckets.pop(bucket, (now, float(self.burst)))
        tokens = min(float(self.burst), tokens + (now - filled_at) * self.per_s)
        allowed = tokens >= 1
        self._buckets[bucket] = (now, tokens - 1 if allowed else tokens)
        if len(self._buckets) > _BUCKETS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = max(1, math.ceil((1 - tokens) / self.per_s))
            limit = f"at most {self.per_s:g} a second from this key and address, in bursts of up to {self.burst}"
            detail = f"requests: expected {limit}, got more"
            raise Problem(HTTP_429_TOO_MANY_REQUESTS, detail, headers={"Retry-After": str(wait_s)})
