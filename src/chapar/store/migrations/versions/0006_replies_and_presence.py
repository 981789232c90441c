"""Replies, devices and their presence, and messages that wait for one or the other."""

import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_DEVICE = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_ID = sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql")
_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_NAME = sa.text("UPDATE installation SET name = :name")
_INDEXES = {
    "ix_messages_ready": (["seq"], "status = 'queued' AND reason IS NULL AND NOT urgent"),
    "ix_messages_waiting": (["imei", "seq"], "status = 'queued' AND reason IS NOT NULL"),
    "ix_messages_urgent": (["seq"], "status = 'queued' AND reason IS NULL AND urgent"),
    "ix_messages_reply_by": (["reply_by"], "reply_by IS NOT NULL AND finished_at IS NULL"),
    "ix_messages_contact_until": (["contact_until"], "contact_until IS NOT NULL AND status = 'queued'"),
}


def _of_messages() -> list[sa.Column[Any]]:
    return [
        sa.Column("reply_within", sa.Integer),
        sa.Column("reply_by", sa.BigInteger),
        sa.Column("reply", sa.Text),
        sa.Column("profile", sa.String(16), nullable=False, server_default=sa.text("'text'")),
        sa.Column("condition", sa.String(8)),
        sa.Column("contact_until", sa.BigInteger),
        sa.Column("collapse_key", sa.Text),
        sa.Column("superseded_by", _ID),
        sa.Column("urgent", sa.Boolean, nullable=False, server_default=sa.text("false")),
    ]


def upgrade() -> None:
    for column in _of_messages():
        op.add_column("messages", column)
    for name, (columns, where) in _INDEXES.items():
        _partial_index(name, "messages", columns, where)
    op.add_column("installation", sa.Column("name", sa.String(16), nullable=False, server_default=""))
    op.execute(_NAME.bindparams(name=secrets.token_hex(8)))
    _create_replies()
    _create_devices()
    receiver = op.create_table(
        "receiver",
        sa.Column("id", sa.SmallInteger, primary_key=True),
        sa.Column("process", sa.String(16)),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.Column("life_down_since", sa.BigInteger),
        sa.Column("filters", sa.Text, nullable=False, server_default="[]"),
    )
    op.bulk_insert(receiver, [{"id": 1, "lease_until": 0}])
    op.create_table(
        "changes",
        sa.Column("seq", _SEQUENCE, sa.Identity(always=True), primary_key=True),
        sa.Column("tx", sa.BigInteger, nullable=False),
        sa.Column("process", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("moved", sa.Text, nullable=False),
    )
    op.create_index("ix_changes_tx", "changes", ["tx"])


def _create_replies() -> None:
    op.create_table(
        "replies",
        sa.Column("seq", _SEQUENCE, sa.Identity(always=True), primary_key=True),
        sa.Column("imei", _DEVICE, nullable=False),
        sa.Column("message_id", _ID),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16)),
        sa.Column("word", sa.Text),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("truncated", sa.Boolean, nullable=False),
        sa.Column("matched_by", sa.String(16)),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("reason", sa.String(24)),
        sa.Column("topic", sa.Text, nullable=False),
    )
    _partial_index("ix_replies_message", "replies", ["message_id", "seq"], "message_id IS NOT NULL")
    _partial_index("ix_replies_unmatched", "replies", ["imei", "seq"], "message_id IS NULL")


def _create_devices() -> None:
    op.create_table(
        "devices",
        sa.Column("imei", _DEVICE, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, server_default=""),
        sa.Column("profile", sa.String(16)),
        sa.Column("labels", sa.Text, nullable=False, server_default="{}"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "presences",
        sa.Column("imei", _DEVICE, primary_key=True),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("since", sa.BigInteger),
        sa.Column("evidence", sa.String(16)),
        sa.Column("offline_at", sa.BigInteger),
    )
    op.create_table(
        "sightings",
        sa.Column("imei", _DEVICE, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    for table in ("changes", "receiver", "sightings", "presences", "devices", "replies"):
        op.drop_table(table)
    op.drop_column("installation", "name")
    for name in _INDEXES:
        op.drop_index(name, "messages")
    for column in reversed(_of_messages()):
        op.drop_column("messages", column.name)
