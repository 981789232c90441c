"""The database, SQLite or PostgreSQL: all that Chapar remembers.

`store.open_store` gives a `Store`: one class a subject, and `changes`, which announces what was committed. Everything
else in here serves these.
"""
