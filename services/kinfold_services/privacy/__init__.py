"""What is held about one person, and how it is removed (contract section 10).

person.py     who a person is, and every log entry that belongs to them
planning.py   what an erasure will do
rewriting.py  the log, the feed and the state are rewritten, and swapped in one step
searching.py  every key is searched for what must not be there any more
files.py      the server's files
records.py    what is stored of erasures: pending ones, and receipts
eraser.py     an erasure from the request to the receipt
"""
