"""What is held about one person, and how it is removed (contract section 10).

person.py  who a person is, and every log entry that belongs to them
"""
