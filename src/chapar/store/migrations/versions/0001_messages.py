"""Messages, their attempts, idempotency keys, and the processes that serve them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql")

WAKE_AT = """CASE
    WHEN status = 'scheduled' THEN deliver_at
    WHEN status = 'queued' AND (not_before IS NULL OR not_before > expires_at) THEN expires_at
    WHEN status = 'queued' THEN not_before
END"""


def upgrade() -> None:
    op.create_table(
        "messages",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(always=True), primary_key=True
        ),
        sa.Column("id", ID, nullable=False),
        sa.Column("imei", sa.String(64), nullable=False),
        sa.Column("micro_op", sa.Text, nullable=False),
        sa.Column("params", sa.Text),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("qos", sa.SmallInteger, nullable=False),
        sa.Column("retain", sa.Boolean, nullable=False),
        sa.Column("at_most_once", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("reason_code", sa.SmallInteger),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("possible_duplicate", sa.Boolean, nullable=False),
        sa.Column("subscribers", sa.Boolean),
        sa.Column("claim", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("deliver_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("not_before", sa.BigInteger),
        sa.Column("origin", ID),
        sa.Column("published_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("wake_at", sa.BigInteger, sa.Computed(WAKE_AT, persisted=True)),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_messages_id", "messages", ["id"], unique=True)
    op.create_index("ix_messages_imei_id", "messages", ["imei", "id"])
    op.create_index("ix_messages_status_seq", "messages", ["status", "seq"])
    _partial_index("ix_messages_unfinished", "status IN ('scheduled', 'queued', 'publishing')", "imei", "seq")
    _partial_index("ix_messages_wake_at", "wake_at IS NOT NULL", "wake_at")
    _partial_index("ix_messages_put_off", "not_before IS NOT NULL", "imei", "seq")

    op.create_table(
        "attempts",
        sa.Column("message_id", ID, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("reason_code", sa.SmallInteger),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("message_id", ID, nullable=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("answer_status", sa.SmallInteger),
        sa.Column("answer_body", sa.Text),
        sa.Column("kept_until", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_idempotency_keys_kept_until", "idempotency_keys", ["kept_until"])
    op.create_table(
        "processes",
        sa.Column("token", sa.String(16), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
    )


def _partial_index(name: str, where: str, *columns: str) -> None:
    op.create_index(name, "messages", list(columns), sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    op.drop_table("processes")
    op.drop_table("idempotency_keys")
    op.drop_table("attempts")
    op.drop_table("messages")
