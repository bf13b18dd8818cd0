"""The screen at `/`: pages for people, rendered by the server.

| file | what |
|---|---|
| `app.py` | the routes, and the answers to errors |
| `pages.py` | templates, security headers and static files |
| `sessions.py` | signing in and out, the session of a request, CSRF |
| `listing.py` | what a list of people shows, as its address says it |
| `people.py`, `live.py` | the list of people; its changes as they happen; CSV |
| `person.py`, `stories.py` | one person; what happened to them, in plain words |
| `as_of.py`, `folding.py` | a person as they were; answers that fold the whole log, one at a time |
| `corrections.py`, `correction_forms.py`, `facts.py` | corrections: preview, undo; their forms; facts side by side |
| `erasing.py` | erasing a person: what will go, the confirmation, the receipt |
| `conflicts.py` | conflicts, with both people side by side |
| `rejects.py` | rejects: reasons, bytes, retry |
| `events.py` | events as they come in, and what each did (`gateway/log_watch.py` reads the log) |
| `health.py` | what is wrong, and the last ten minutes as charts (`gateway/vitals.py` takes the samples) |
| `words.py` | times, numbers, values and devices in plain words |

Every page works without JavaScript. With it, htmx (`static/vendor`, made by `make web`) swaps parts of pages.
"""
