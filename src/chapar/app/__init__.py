"""Put a process together from its rooms, and keep it running."""
