"""An issuer of tokens, with the key set that it publishes."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from support.ports import LOOPBACK

ISSUER: Final = "https://issuer.example.org"
AUDIENCE: Final = "chapar"
EVERY_SCOPE: Final = (
    "messages:send messages:read messages:cancel messages:urgent devices:read devices:write keys:write audit:read "
    "metrics:read"
)

_ALGORITHMS: Final = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def new_key(algorithm: str = "RS256") -> Any:
    """A private key for tokens of this algorithm."""
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk_of(key: Any, key_id: str, algorithm: str, **fields: Any) -> dict[str, Any]:
    """The public half as an entry of a key set."""
    return json.loads(_ALGORITHMS[algorithm].to_jwk(key.public_key())) | {"kid": key_id, "alg": algorithm} | fields


def claims(**changed: Any) -> dict[str, Any]:
    """What a good token says; a claim that is None is left out."""
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "backend", "exp": time.time() + 600, "scope": EVERY_SCOPE} | changed
    return {name: value for name, value in said.items() if value is not None}


class Issuer:
    """Serves a key set at `url` while it is entered."""

    def __init__(self, *algorithms: str) -> None:
        self.keys = {algorithm: new_key(algorithm) for algorithm in algorithms or ("RS256", "ES256", "EdDSA")}
        self.entries = [jwk_of(key, f"key-{algorithm}", algorithm) for algorithm, key in self.keys.items()]
        self.status = 200
        self.asked = 0
        self.accepts = ""  # what was last asked for
        self.authorization: str | None = None  # … and by whom

        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.accepts = self.headers["Accept"]
                issuer.authorization = self.headers["Authorization"]
                body = json.dumps({"keys": issuer.entries}).encode()
                self.send_response(issuer.status)
                if issuer.status in {301, 302, 307, 308}:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def token(self, algorithm: str = "RS256", **changed: Any) -> str:
        """A token that this issuer signed."""
        return jwt.encode(claims(**changed), self.keys[algorithm], algorithm, headers={"kid": f"key-{algorithm}"})

    @property
    def settings_env(self) -> dict[str, str]:
        return {"CHAPAR_JWT_JWKS_URL": self.url, "CHAPAR_JWT_ISSUER": ISSUER, "CHAPAR_JWT_AUDIENCE": AUDIENCE}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
