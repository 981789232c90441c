"""Real proxies in front of a gateway, each in a folder and on a port of its own."""

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from support.certificates import Certificates
from support.ports import LOOPBACK, free_port
from support.processes import Program

_SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])

# As its documentation shows it, with what most guides add so that WebSockets pass and bodies are not kept on disk.
_NGINX = """
  map $http_upgrade $offer {{ default upgrade; "" ""; }}
  upstream gateway {{ server {gateway}; keepalive 1; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://gateway;
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $offer;
    }}
  }}
"""
# What nginx needs around a file of `conf.d`.
_NGINX_AROUND = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
{site}
}}
"""
_CADDY_AROUND = """
{{
  admin off
  auto_https off
}}
{site}
"""
_DEPLOY = Path(__file__).parents[2] / "deploy"
_CADDY = """
http://{address} {{
  reverse_proxy {gateway}
}}
"""


def installed(kind: str) -> bool:
    """Whether this machine has it."""
    return shutil.which(kind, path=_SEARCHED) is not None


class Proxy:
    """An `nginx` or a `caddy` that hands everything to the gateway at a port.

    With certificates it is set up as `deploy/` shows it: at `/chapar/`, with TLS.
    """

    def __init__(self, kind: str, gateway_port: int, certificates: Certificates | None = None) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        config = self._folder / "config"
        gateway, address = f"{LOOPBACK}:{gateway_port}", f"{LOOPBACK}:{self.port}"
        if certificates is None:
            site = {"nginx": _NGINX, "caddy": _CADDY}[kind].format(gateway=gateway, address=address)
        else:
            site = _shown_site(kind, gateway, address, certificates)
        around = {"nginx": _NGINX_AROUND, "caddy": _CADDY_AROUND}[kind]
        config.write_text(around.format(folder=self._folder, site=site))
        program = shutil.which(kind, path=_SEARCHED)
        assert program is not None
        options = {
            "nginx": ["-p", str(self._folder), "-e", "stderr", "-c", str(config)],
            "caddy": ["run", "--adapter", "caddyfile", "--config", str(config)],
        }
        env = {"PATH": os.defpath, "HOME": str(self._folder)}
        self._program = Program([program, *options[kind]], folder=self._folder, env=env)

    def __enter__(self) -> Self:
        try:
            self._program.wait_until_accepts(self.port)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._program.end()
        finally:
            self._close()

    def _close(self) -> None:
        self._program.close()
        shutil.rmtree(self._folder)


def _shown_site(kind: str, gateway: str, address: str, certificates: Certificates) -> str:
    """What `deploy/` shows, at other addresses and with another certificate."""
    chain, key = certificates.server_cert_file, certificates.server_key_file
    port = address.partition(":")[2]
    if kind == "nginx":
        file, changes = (
            "nginx.conf",
            {
                "listen 443 ssl": f"listen {address} ssl",
                "server_name ops.example.org": "server_name localhost",
                "/etc/nginx/tls/fullchain.pem": str(chain),
                "/etc/nginx/tls/privkey.pem": str(key),
            },
        )
    else:
        file = "Caddyfile"
        changes = {"\nops.example.org {": f"\nhttps://localhost:{port} {{\n\tbind {LOOPBACK}\n\ttls {chain} {key}"}
    site = (_DEPLOY / file).read_text()
    for shown, used in {"127.0.0.1:8000": gateway, **changes}.items():
        assert site.count(shown) == 1, f"{file} shows {shown} no more"
        site = site.replace(shown, used)
    return site
