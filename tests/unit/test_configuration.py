"""Where settings come from: the environment, then `.env`, then one TOML file; and the names that are no settings."""

import os
from pathlib import Path

import pytest

from chapar.errors import ConfigurationInvalid, SettingInvalid
from chapar.runtime.configuration import Configuration, adopt_files
from support.rights import forbidden


def adopted(folder: Path, **environment: str) -> dict[str, str]:
    adopt_files(environment, folder)
    return environment


def test_the_environment_outranks_dotenv_and_dotenv_the_toml_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CHAPAR_PORT=2\nCHAPAR_HOST=::1\nOTHER=x\n")
    (tmp_path / "chapar.toml").write_text('port = 3\nhost = "::2"\nworkers = 3\n')
    assert adopted(tmp_path, CHAPAR_PORT="1", HOME="/") == {
        "CHAPAR_PORT": "1",
        "CHAPAR_HOST": "::1",
        "CHAPAR_WORKERS": "3",
        "HOME": "/",
    }


def test_values_of_toml_are_what_variables_hold(tmp_path: Path) -> None:
    (tmp_path / "chapar.toml").write_text(
        "auto_migrate = true\nretention_days = 1.5\nCHAPAR_BURST = 20\n"
        'broker_url = [ "mqtt://a", "mqtt://b" ]\ntrusted_proxies = []\n'
    )
    assert adopted(tmp_path) == {
        "CHAPAR_AUTO_MIGRATE": "true",
        "CHAPAR_RETENTION_DAYS": "1.5",
        "CHAPAR_BURST": "20",
        "CHAPAR_BROKER_URL": "mqtt://a,mqtt://b",
    }


def test_chapar_config_names_another_file_also_in_dotenv(tmp_path: Path) -> None:
    (tmp_path / "chapar.toml").write_text("port = 3\n")
    (tmp_path / "site.toml").write_text("port = 4\n")
    assert adopted(tmp_path, CHAPAR_CONFIG="site.toml")["CHAPAR_PORT"] == "4"
    assert adopted(tmp_path, CHAPAR_CONFIG=str(tmp_path / "site.toml"))["CHAPAR_PORT"] == "4"
    assert adopted(tmp_path, CHAPAR_CONFIG="")["CHAPAR_PORT"] == "3"
    (tmp_path / ".env").write_text("export CHAPAR_CONFIG='site.toml' # of this site\n")
    assert adopted(tmp_path)["CHAPAR_PORT"] == "4"


@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_an_empty_value_means_the_default_whatever_a_file_says(tmp_path: Path, empty: str) -> None:
    (tmp_path / "chapar.toml").write_text("port = 3\n")
    assert adopted(tmp_path, CHAPAR_PORT=empty) == {}


@pytest.mark.parametrize(
    ("outer", "counts"),
    [
        ({"CHAPAR_DATABASE_URL": "sqlite:///a.db"}, {"CHAPAR_DATABASE_URL": "sqlite:///a.db"}),
        ({"CHAPAR_DATABASE_URL_FILE": "/run/a"}, {"CHAPAR_DATABASE_URL_FILE": "/run/a"}),
        ({"CHAPAR_DATABASE_URL": ""}, {}),
        ({}, {"CHAPAR_DATABASE_URL_FILE": "/run/b"}),
    ],
)
def test_both_forms_of_a_secret_are_one_setting(tmp_path: Path, outer: dict[str, str], counts: dict[str, str]) -> None:
    (tmp_path / "chapar.toml").write_text('database_url_file = "/run/b"\n')
    assert adopted(tmp_path, **outer) == counts


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("CHAPAR_PROT", "CHAPAR_PORT"),
        ("CHAPAR_DATABASE", "CHAPAR_DATABASE_URL"),
        ("CHAPAR_BROKER_URI", "CHAPAR_BROKER_URL"),
        ("CHAPAR_LOGLEVEL", "CHAPAR_LOG_LEVEL"),
        ("CHAPAR_JWT_SECRET_FIL", "CHAPAR_JWT_SECRET_FILE"),
        ("CHAPAR_API_KYE", "CHAPAR_API_KEY"),
        ("chapar_prot", "CHAPAR_PORT"),
        ("CHAPAR_QQQQ", None),
    ],
)
def test_a_misspelt_name_has_the_nearest_setting(tmp_path: Path, written: str, nearest: str | None) -> None:
    [unknown] = adopt_files({written: "x"}, tmp_path).unknown
    assert (unknown.name, unknown.nearest) == (written, nearest)
    assert written in unknown.warning.sentence("en")
    assert nearest is None or nearest in unknown.warning.sentence("fa")


def test_misspelt_names_in_files_are_named_with_their_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CHAPAR_HSOT=::1\nHSOT=x\n")
    (tmp_path / "chapar.toml").write_text("prot = 3\nCHAPAR_BRUST = 4\n[logging]\nlevel = 1\n".replace("[logging]", ""))
    warnings = [str(unknown.warning) for unknown in adopt_files({}, tmp_path).unknown]
    assert sorted(warnings) == sorted(
        [
            f"`CHAPAR_HSOT` in {tmp_path}/.env is no setting, so it was not read. Did you mean CHAPAR_HOST?",
            f"`prot` in {tmp_path}/chapar.toml is no setting, so it was not read. Did you mean port?",
            f"`CHAPAR_BRUST` in {tmp_path}/chapar.toml is no setting, so it was not read. Did you mean CHAPAR_BURST?",
            f"`level` in {tmp_path}/chapar.toml is no setting, so it was not read. Did you mean log_level?",
        ]
    )


def test_what_kubernetes_sets_for_a_service_called_chapar_is_none_of_ours(tmp_path: Path) -> None:
    links = {
        "CHAPAR_SERVICE_HOST": "10.0.0.1",
        "CHAPAR_SERVICE_PORT_HTTP": "8000",
        "CHAPAR_PORT": "tcp://10.0.0.1:8000",
        "CHAPAR_PORT_8000_TCP_ADDR": "10.0.0.1",
        "CHAPAR_DB_PORT": "tcp://10.0.0.2:5432",
        "CHAPAR_DB_PORT_5432_TCP": "tcp://10.0.0.2:5432",
    }
    (tmp_path / "chapar.toml").write_text("port = 3\n")
    assert adopt_files(links, tmp_path).unknown == ()
    assert links["CHAPAR_PORT"] == "3"


@pytest.mark.parametrize("name", [".env", "chapar.toml"])
@pytest.mark.parametrize(
    ("content", "says"), [(b"\xff\xfe", "UTF-8"), (b"\n" * 1_100_000, "1 MiB"), (None, "Is a directory")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    file = tmp_path / name
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(ConfigurationInvalid, match=says) as raised:
        adopt_files({}, tmp_path)
    assert name in str(raised.value)


def test_a_file_that_is_named_and_not_there_is_named_with_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"site.toml \(CHAPAR_CONFIG\) .*No such file"):
        adopt_files({"CHAPAR_CONFIG": "site.toml"}, tmp_path)


@pytest.mark.parametrize("content", ["port 3", "[", "a = " + "[" * 100_000, 'a = "'])
def test_what_is_not_toml_is_said_with_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "chapar.toml").write_text(content)
    with pytest.raises(ConfigurationInvalid, match=r"chapar\.toml cannot be used: it is not TOML"):
        adopt_files({}, tmp_path)


def test_a_malformed_line_of_dotenv_counts_where_it_is_ours(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("!!not ours 'x\n\n\nCHAPAR_PORT='3\n")
    with pytest.raises(ConfigurationInvalid, match=r"line 4"):
        adopt_files({}, tmp_path)
    (tmp_path / ".env").write_text("!!not ours 'x\nCHAPAR_PORT=3\n")
    assert adopted(tmp_path) == {"CHAPAR_PORT": "3"}


@pytest.mark.parametrize("value", ["{ number = 3 }", "2026-11-29", "[[3]]", "[{ a = 1 }]"])
def test_a_value_of_a_type_that_no_setting_has_is_named_with_file_and_key(tmp_path: Path, value: str) -> None:
    (tmp_path / "chapar.toml").write_text(f"port = {value}\n")
    with pytest.raises(SettingInvalid, match=r"CHAPAR_PORT \(`port` in .*chapar\.toml\) cannot be used: write it as"):
        adopt_files({}, tmp_path)


@pytest.mark.parametrize("key", ["config", "CHAPAR_CONFIG"])
def test_one_file_cannot_name_another(tmp_path: Path, key: str) -> None:
    (tmp_path / "chapar.toml").write_text(f'{key} = "other.toml"\n')
    with pytest.raises(SettingInvalid, match="CHAPAR_CONFIG"):
        adopt_files({}, tmp_path)


def test_a_stranger_s_file_in_the_working_folder_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chapar.toml").write_text('url = "https://collector.example"\n')
    me = os.geteuid()
    os.chown(tmp_path / "chapar.toml", 12_345, -1) if me == 0 else monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(ConfigurationInvalid, match="another user"):
        adopt_files({}, tmp_path)
    assert adopted(tmp_path, CHAPAR_CONFIG="chapar.toml")["CHAPAR_URL"] == "https://collector.example"


def test_a_working_folder_that_may_not_be_entered_has_no_files(tmp_path: Path) -> None:
    with forbidden(tmp_path):
        assert adopted(tmp_path, CHAPAR_PORT="3") == {"CHAPAR_PORT": "3"}


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("\ufeffCHAPAR_HOST=::1\r\n".encode())
    (tmp_path / "chapar.toml").write_bytes("\ufeffport = 3\r\n".encode())
    assert adopted(tmp_path) == {"CHAPAR_HOST": "::1", "CHAPAR_PORT": "3"}


def test_an_error_says_where_its_setting_is_written(tmp_path: Path) -> None:
    (tmp_path / "chapar.toml").write_text("port = 3\n")
    configuration = adopt_files({}, tmp_path)
    error = SettingInvalid("CHAPAR_PORT", "it is small.")
    configuration.explain(error)
    assert str(error) == f"CHAPAR_PORT (`port` in {tmp_path}/chapar.toml) cannot be used: it is small."
    other = SettingInvalid("CHAPAR_HOST", "it is far.")
    configuration.explain(other)
    assert str(other) == "CHAPAR_HOST cannot be used: it is far."


def test_without_files_nothing_is_read(tmp_path: Path) -> None:
    assert adopt_files({"HOME": "/"}, tmp_path) == Configuration()
