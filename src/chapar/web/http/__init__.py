"""Stations of any request before its route: the connection, who calls, how much they may ask, the body."""
