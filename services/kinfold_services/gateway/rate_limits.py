"""Rate limits: a token bucket for each key and address.

Gateways do not share buckets: two of them allow twice as much.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from typing import Final

from litestar.status_codes import HTTP_429_TOO_MANY_REQUESTS

from kinfold_services.gateway.problems import Problem

_BUCKETS: Final = 50_000
"""At most this many buckets. The least recently used one is dropped: it would soon be full anyway."""


_IPV6_HOST_BITS: Final = 64


def network_of(address: str) -> str:
    """The address itself, or the network of an IPv6 address: one customer of a provider has 2^64 addresses."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{int(parsed) >> _IPV6_HOST_BITS:x}::/64"


class RateLimit:
    """Token buckets of one size: `burst` tokens, refilled at `per_s` a second. A token stands for one of `what`."""

    def __init__(self, per_s: float, burst: int, what: str = "requests") -> None:
        self.per_s: Final = per_s
        self.burst: Final = burst
        self._what: Final = what
        self._buckets: Final[OrderedDict[tuple[str, str], tuple[float, float]]] = OrderedDict()

    def take(self, who: str, address: str, cost: int = 1) -> None:
        """Take tokens out of a bucket. Raises Problem (429), and takes none, if it has fewer.

        A cost above `burst` takes the whole of a full bucket: otherwise it could never be paid.
        """
        cost = min(cost, self.burst)
        now = time.monotonic()
        bucket = (who, network_of(address))
        filled_at, tokens = self._buckets.pop(bucket, (now, float(self.burst)))
        tokens = min(float(self.burst), tokens + (now - filled_at) * self.per_s)
        allowed = tokens >= cost
        self._buckets[bucket] = (now, tokens - cost if allowed else tokens)
        if len(self._buckets) > _BUCKETS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = max(1, math.ceil((cost - tokens) / self.per_s))
            limit = f"at most {self.per_s:g} a second from this key and address, in bursts of up to {self.burst}"
            detail = f"{self._what}: expected {limit}, got more"
            raise Problem(HTTP_429_TOO_MANY_REQUESTS, detail, headers={"Retry-After": str(wait_s)})

    def give_back(self, who: str, address: str, cost: int = 1) -> None:
        """Put back what was taken for a request that turned out to be another's."""
        bucket = (who, network_of(address))
        if (filled := self._buckets.get(bucket)) is not None:
            self._buckets[bucket] = (filled[0], filled[1] + min(cost, self.burst))
