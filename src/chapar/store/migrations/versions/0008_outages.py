"""Outages of the broker, as gateway processes met them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "outages",
        sa.Column("seq", _SEQUENCE, sa.Identity(always=True), primary_key=True),
        sa.Column("process", sa.String(16), nullable=False),
        sa.Column("began_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=False),
        sa.Column("cause", sa.String(64)),
    )


def downgrade() -> None:
    op.drop_table("outages")
