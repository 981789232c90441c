"""Events: what has changed, for whoever subscribes."""
