"""What Chapar remembers, in SQLite or PostgreSQL.

`store.open_store` gives a `Store`: one class a subject, and `changes`, which announces what was committed. Everything
else in here serves these.
"""
