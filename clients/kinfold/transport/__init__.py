"""Connections to Redis and to the gateway, for every part of the client. Nothing here knows about events or contacts.

`urls` tells the two apart, `redis` and `gateway` connect, `backoff` delays attempts. Import the modules: an application that
uses the gateway does not load redis-py.
"""
