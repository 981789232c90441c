"""What an API key looks like, and who may make which."""

import pytest

from chapar.access.api_keys import PREFIX, hash_of, is_api_key, new_api_key
from chapar.access.keyring import MAX_NAME, Grant, issue, may_see, new_end, revocation
from chapar.errors import FieldInvalid, GrantTooWide
from chapar.model.principal import ANYBODY, EVERY_SCOPE, EVERYWHERE, Caller, Principal, Reach, Scope

OWNER = Caller(ANYBODY, "127.0.0.1")
FARM1 = Reach(("farm1-*",))
FARMER = Caller(Principal("key:farmer", "farmer", frozenset({Scope.KEYS, Scope.SEND}), FARM1), "192.0.2.7")
GRANT = Grant("backend", frozenset({Scope.SEND}), FARM1, None)
NOW = 1_700_000_000_000


def test_a_key_is_recognised_and_is_256_bits_of_chance() -> None:
    keys = {new_api_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert key.startswith(PREFIX)
        assert is_api_key(key)
        assert len(key) == len(PREFIX) + 43 + 6
        assert len(hash_of(key)) == 64
        assert key not in hash_of(key)


def test_a_key_that_is_mistyped_is_told_apart() -> None:
    key = new_api_key()
    for place in range(len(key)):
        assert not is_api_key(f"{key[:place]}{'a' if key[place] != 'a' else 'b'}{key[place + 1 :]}")
    for wrong in (key[:-1], key + "0", key[len(PREFIX) :], "", PREFIX, key.replace(key[-1], "ی"), key.upper()):
        assert not is_api_key(wrong)


def test_a_new_key_is_stored_by_its_hash_only() -> None:
    issued = issue(OWNER, GRANT, NOW)
    assert is_api_key(issued.secret)
    assert issued.key.hash == hash_of(issued.secret)
    assert issued.secret not in repr((issued.key, issued.entry))
    assert (issued.key.name, issued.key.scopes, issued.key.reach) == ("backend", {Scope.SEND}, FARM1)
    assert (issued.key.created_at, issued.key.created_by, issued.key.expires_at) == (NOW, "", None)
    assert issued.entry[:6] == (NOW, "", "anybody", "127.0.0.1", "key_created", issued.key.id)
    assert issued.entry.detail == "backend: messages:send"


def test_nobody_gives_away_more_than_they_have() -> None:
    assert issue(FARMER, GRANT, NOW).key.created_by == "key:farmer"
    for wider in (
        GRANT._replace(scopes=frozenset({Scope.SEND, Scope.READ})),
        GRANT._replace(scopes=EVERY_SCOPE),
        GRANT._replace(reach=EVERYWHERE),
        GRANT._replace(reach=Reach(("farm1-*", "farm2-*"))),
    ):
        with pytest.raises(GrantTooWide):
            issue(FARMER, wider, NOW)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a" * (MAX_NAME + 1)}, "name"),
        ({"scopes": frozenset()}, "scopes"),
        ({"expires_at": NOW}, "expires_at"),
        ({"expires_at": NOW - 1}, "expires_at"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(changed: dict[str, object], field: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        issue(OWNER, GRANT._replace(**changed), NOW)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_key_may_end_and_is_seen_to_have_ended() -> None:
    key = issue(OWNER, GRANT._replace(name="n" * MAX_NAME, expires_at=NOW + 1), NOW).key
    assert not key.ended(NOW)
    assert key.ended(NOW + 1)
    assert key._replace(expires_at=None, revoked_at=NOW).ended(NOW)
    assert not key._replace(expires_at=None).ended(NOW + 10**12)


def test_a_key_with_more_rights_than_the_caller_is_none_of_its_business() -> None:
    key = issue(OWNER, GRANT, NOW).key
    assert may_see(OWNER, key)
    assert may_see(FARMER, key)
    assert not may_see(FARMER, key._replace(scopes=EVERY_SCOPE))
    assert not may_see(FARMER, key._replace(reach=EVERYWHERE))


def test_the_audit_trail_is_told_who_ends_a_key() -> None:
    key = issue(OWNER, GRANT, NOW).key
    change = revocation(FARMER, key, NOW)
    assert (change.key_id, change.at, change.for_good) == (key.id, NOW, True)
    assert change.entry[:6] == (NOW, "key:farmer", "farmer", "192.0.2.7", "key_revoked", key.id)
    assert change.entry.detail == "backend"
    change = new_end(FARMER, key, NOW + 5, NOW)
    assert (change.key_id, change.at, change.for_good) == (key.id, NOW + 5, False)
    assert (change.entry.action, change.entry.detail) == ("key_expires", f"backend: {NOW + 5}")
    assert new_end(FARMER, key, None, NOW).entry.detail == "backend: never"
    with pytest.raises(FieldInvalid):
        new_end(FARMER, key, NOW, NOW)


def test_a_key_that_was_given_out_stays_one() -> None:
    assert is_api_key(PREFIX + "0" * 43 + "jlcZC2")
    assert hash_of("chapar_") == "22dcf021f4b4fea1638531d3151698b1ca51fe2a83f22659b6214615ac13654f"


def test_a_key_is_stored_under_its_name_without_blanks_around_it_and_told_of_with_all_its_scopes() -> None:
    assert issue(OWNER, GRANT._replace(name="b"), NOW).key.name == "b"
    issued = issue(OWNER, GRANT._replace(name=" backend ", scopes=frozenset({Scope.SEND, Scope.READ})), NOW)
    assert issued.key.name == "backend"
    assert issued.entry.detail == "backend: messages:read messages:send"


def test_a_key_with_the_callers_own_rights_is_its_business() -> None:
    key = issue(FARMER, GRANT._replace(scopes=FARMER.principal.scopes), NOW).key
    assert may_see(FARMER, key)
