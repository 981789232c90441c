"""Pauses of devices' queues."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_DEVICE = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_RESUMED = sa.text("resumed_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "pauses",
        sa.Column("imei", _DEVICE, primary_key=True),
        sa.Column("paused_at", sa.BigInteger, nullable=False),
        sa.Column("paused_by", sa.Text, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("resumed_at", sa.BigInteger),
    )
    op.create_index("ix_pauses_resumed", "pauses", ["resumed_at"], sqlite_where=_RESUMED, postgresql_where=_RESUMED)


def downgrade() -> None:
    op.drop_table("pauses")
