"""The units of deploy/systemd, as far as a machine without systemd can follow them."""

import shlex
from collections import defaultdict
from pathlib import Path

UNITS = Path(__file__).parents[2] / "deploy/systemd"


class Unit:
    """A service with its drop-ins, whose folders are below `root` instead of `/`."""

    def __init__(self, root: Path, *files: str) -> None:
        self._root = root
        self._options: defaultdict[str, list[str]] = defaultdict(list)
        for file in files:
            for line in (UNITS / file).read_text().splitlines():
                name, is_option, value = line.partition("=")
                if is_option and not line.startswith("#"):
                    self._options[name].append(self._specified(value))

    def __getitem__(self, name: str) -> list[str]:
        """Every value of an option, in order."""
        return self._options[name]

    @property
    def command(self) -> list[str]:
        """What is run, without the folder that it is installed in."""
        program, *arguments = shlex.split(self["ExecStart"][-1])
        return [Path(program).name, *arguments]

    @property
    def folder(self) -> Path:
        return Path(self["WorkingDirectory"][-1])

    def environment(self) -> dict[str, str]:
        """Its variables; makes its folders, and puts its credentials where it finds them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        credentials = self._root / "credentials"
        credentials.mkdir(exist_ok=True)
        for credential in self["LoadCredential"]:
            name, _, source = credential.partition(":")
            (credentials / name).write_text((self._root / source.removeprefix("/")).read_text())
        lines = list(self["Environment"])
        for file in self["EnvironmentFile"]:
            path = self._root / file.removeprefix("-").removeprefix("/")
            if path.exists() or not file.startswith("-"):
                lines += path.read_text().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def _specified(self, value: str) -> str:
        return value.replace("%d", f"{self._root}/credentials").replace("%S", f"{self._root}/var/lib")
