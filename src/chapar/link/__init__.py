"""The link to the broker: one MQTT 5 session that is kept up, and the broker that is built in."""
