"""What Chapar remembers: one table of messages, in SQLite or PostgreSQL.

`store.Store` is what the rest of the program may use; everything else in here serves it.
"""
