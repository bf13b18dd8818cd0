"""Who may do what.

keys.py             API keys of the gateway's callers
identity_tokens.py  identities that a backend has signed for a browser
rights.py           the Redis rights (ACL) that each program needs
"""
