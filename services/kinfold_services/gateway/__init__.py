"""The gateway: kinfold over HTTP, for programs that do not use Redis.

    app.py         the application and its routes       server.py      the process: listens and stops
    events/        events to the log                    contacts/      queries of contacts and visitors
    changes/       the change feed                      workspaces.py  what the routes share
    callers.py     guards: who may use a route          rate_limits.py rate limits
    parameters.py  rejects unknown query parameters     preflights.py  explains rejected CORS preflights
    problems.py    error responses                      access_log.py  request ids and the access log
    operations.py  health, readiness, metrics           metrics.py     every metric
    openapi.py     the OpenAPI document                 docs.py        the document as a page
    script.py      the script for pages                 web/           the script, made by `make web`
    protocols.py   bounds of a connection               sdk_settings.py settings of other SDKs for pages

`/docs` describes the API. A key names the workspace of a request: `Authorization: Bearer KEY`. Error responses are
`{"error": code, "detail": sentence, "requestId": id}`. `POST /v1/events` takes an event, an array or NDJSON, and answers 202
with the position of the last event. `GET` routes take `?after=POSITION` and wait for the projector. `GET /v1/changes` resumes
from `Last-Event-ID` or `?since=`.
"""
