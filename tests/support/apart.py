"""The connections over which a gateway receives, told from the one over which it publishes."""

import mqtt5

_CLIENTS = ("chapar-replies-", "chapar-life-")


def receives(connect: mqtt5.ConnectPacket) -> bool:
    """Whether this is the CONNECT of a connection that receives."""
    return connect.client_id.startswith(_CLIENTS)
