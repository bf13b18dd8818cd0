"""Producers: report events with one call, checked at once and sent in the background.

From a call to the log: `kinfold.calls` makes a draft, `buffer` holds it, `delivery` sends it (with `suppression`, `outbox`,
`spool` and `retry`), and `redis_log` or `gateway_log` appends it. `process` handles forks and the end of the process.
"""

from kinfold.producer.counters import Counters
from kinfold.producer.options import Failure, ProducerOptions
from kinfold.producer.producers import AsyncProducer, Producer

__all__ = ["AsyncProducer", "Counters", "Failure", "Producer", "ProducerOptions"]
