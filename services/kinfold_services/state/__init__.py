"""A workspace's state in Redis (contract section 1).

queries.py   lookups of contacts and visitors, and the status   reader.py    the position and the rules of a state
members.py   a contact's visitors, newest link first            position.py  the hash `position`
loading.py   loads the records that a batch needs               writes.py    what a fold changed, as packed commands
group.py     the consumer group that shows the lag              wire.py      a connection that sends whole pipelines
baseline.py  the state in a baseline of the log
"""
