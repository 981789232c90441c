"""The HTTP side: routes, their schemas, and how errors become answers. Sees only the gateway."""
