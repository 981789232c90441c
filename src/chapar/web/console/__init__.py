"""Pages for people, at `/console/`.

A page is a module, a template and its words:

1. A module of its own (`messages.py`) with a function that makes a router of its use cases. `routes()` gives the
   router; each endpoint takes the request, says who may call it (`@allow`), and gives `site.page(request,
   "messages.html", …)`. A form that is posted comes as `form_of(request)`, its token checked before the endpoint.
2. A template of the same name in `templates/`, which extends `base.html`. Words come from `t("messages.title")`; times,
   ids and what devices say are written by the macros of `parts.html`, which isolate them. Its block `live` is what the
   page asks for again every few seconds.
3. Its words, a table of its name in `en.toml` and in `fa.toml`, in the same order.
4. A line in `NAVIGATION` of `navigation.py`, and one in `console_of` of `app/wiring.py`.

Unit tests hold that the catalogs are complete, and that no template holds words, scripts or styles of its own.
"""
