"""What is shipped beside the program: units that systemd takes, pages that man shows, scripts that each shell completes with."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from backupctl import errors
from backupctl.cli.main import cli
from backupctl.cli.manual import EXITS, pages
from backupctl.cli.shipping import KINDS, SHELLS, UNITS, Place, completion_script, files, write
from backupctl.errors import UsageError
from tests.end_to_end.site import Site

MOST_EXPOSED = 2.5  # of 10, as `systemd-analyze security` counts


def program(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        message = f"{name} is not installed: `apt-get install {package}`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def said(argv: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=cwd, env=env)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, for a machine whose program is there."""
    root = tmp_path_factory.mktemp("root")
    place = Place(program=sys.executable, writable=("/srv/backup",))
    for path, text in files(place).items():
        assert write(root, path, text)
        assert not write(root, path, text)  # a second time nothing changes
    return root


def test_units_are_what_systemd_takes(shipped: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    units = [str(shipped / "etc/systemd/system" / name) for name in UNITS]
    assert said([analyze, "verify", "--man=no", *units]).strip() == ""


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_units_are_hardened(shipped: Path, name: str) -> None:
    analyze = program("systemd-analyze", "systemd")
    unit = shipped / "etc/systemd/system" / name
    argv = [analyze, "security", "--offline=yes", f"--threshold={round(MOST_EXPOSED * 10)}", str(unit)]
    assert "Overall exposure level" in said(argv)
    text = unit.read_text()
    assert "NoNewPrivileges=yes\n" in text and "User=backupctl\n" in text
    assert "ReadWritePaths=-/var/lib/backupctl -/srv/backup\n" in text


def test_every_timer_has_its_service_and_can_be_enabled(shipped: Path) -> None:
    for name in UNITS:
        text = (shipped / "etc/systemd/system" / name).read_text()
        if name.endswith(".timer"):
            assert name.replace(".timer", ".service") in UNITS
            assert "[Install]\nWantedBy=timers.target\n" in text


@pytest.mark.parametrize("bad", ["/srv/a b", "x\nExecStart=/bin/sh", "$(id)", "%h"])
def test_what_is_no_plain_name_gets_into_no_unit(bad: str) -> None:
    with pytest.raises(UsageError):
        Place(state=bad)


def test_logs_are_rotated_and_kept_for_longer_than_half_a_year(tmp_path: Path) -> None:
    rotate = program("logrotate", "logrotate")
    user = pwd.getpwuid(os.geteuid()).pw_name
    text = files(Place(user=user), ("logrotate",))["etc/logrotate.d/backupctl"]
    assert "weekly" in text and "rotate 53" in text
    group = grp.getgrgid(os.getegid()).gr_name
    (tmp_path / "logs").mkdir(mode=0o755)
    text = text.replace("/var/log/backupctl", str(tmp_path / "logs")).replace(f"{user} {user}", f"{user} {group}")
    (tmp_path / "rotate.conf").write_text(text)
    (tmp_path / "rotate.conf").chmod(0o644)
    log = tmp_path / "logs" / "backupctl.log"
    log.write_text("one\n")
    said([rotate, "--force", "--state", str(tmp_path / "state"), str(tmp_path / "rotate.conf")])
    assert (log.read_text(), log.stat().st_mode & 0o777) == ("", 0o640)
    assert (tmp_path / "logs" / "backupctl.log.1").read_text() == "one\n"


def test_every_verb_has_a_page_that_man_shows_without_a_warning(shipped: Path) -> None:
    man = program("man", "man-db")
    made = pages()
    verbs = cli.list_commands(click.Context(cli))
    assert set(made) == {"backupctl.1", *(f"backupctl-{verb}.1" for verb in verbs)}
    directory = shipped / "usr/local/share/man/man1"
    for name in ("backupctl.1", "backupctl-status.1", "backupctl-drill.1"):
        text = said(
            [man, "--warnings=w", "-l", str(directory / name)], env=os.environ | {"MANWIDTH": "100", "MANPAGER": "cat"}
        )
        assert "warning" not in text.lower().replace("warnings", "")
        assert "NAME" in text and "DESCRIPTION" in text
    groff = program("groff", "groff-base")
    every = "".join(made.values())
    done = subprocess.run(
        [groff, "-K", "utf8", "-man", "-ww", "-Tutf8", "-z"], input=every, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_knows_every_exit_code_and_option() -> None:
    made = pages()
    codes = {
        one.exit_code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.UserError)
    }
    assert {int(code) for code, _ in EXITS} == codes | {0}
    context = click.Context(cli)
    for verb in cli.list_commands(context):
        command = cli.get_command(context, verb)
        assert command is not None
        for one in command.get_params(click.Context(command)):
            for option in one.opts if isinstance(one, click.Option) and not one.hidden else []:
                assert option.replace("-", "\\-") in made[f"backupctl-{verb}.1"], (verb, option)


def test_the_command_lists_and_writes(tmp_path: Path) -> None:
    site = Site(tmp_path)
    said = site.run("config", "files", "--json")
    assert len([line for line in said.lines if line["type"] == "file"]) == len(files(Place()))
    site.run("config", "files", "--into", "root", "--only", "completion")
    assert sorted(
        str(one.relative_to(tmp_path / "root")) for one in (tmp_path / "root").rglob("*") if one.is_file()
    ) == (sorted(SHELLS.values()))
    assert KINDS  # one place names them


# completion, asked of each shell itself


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A configuration, and an environment in which `backupctl` is found."""
    root = Site.create(tmp_path_factory.mktemp("site")).root
    (root / "bin").mkdir()
    ours = root / "bin" / "backupctl"
    ours.write_text(f"#!{sys.executable} -P\nfrom backupctl.cli.main import main\n\nmain()\n")
    ours.chmod(0o755)
    python_path = str(Path(errors.__file__).parents[1])
    return root, os.environ | {
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": python_path,
        "HOME": str(root),
    }


LINES = [("backupctl stat", {"status"}), ("backupctl run s", {"site"}), ("backupctl drill run site/", {"site/full"})]


@pytest.mark.parametrize(("line", "offered"), LINES)
def test_bash_completes(place: tuple[Path, dict[str, str]], line: str, offered: set[str]) -> None:
    root, environment = place
    words = line.split(" ")
    script = completion_script("bash") + (
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'\n"
        "complete -p backupctl >/dev/null || exit 3\n"
        f"_backupctl_completion backupctl {words[-1]} {words[-2]}; printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    done = said([program("bash", "bash"), "--norc", "-c", script], cwd=root, env=environment)
    assert set(done.split()) == offered


@pytest.mark.servers
@pytest.mark.parametrize(("line", "offered"), LINES)
def test_zsh_completes(place: tuple[Path, dict[str, str]], line: str, offered: set[str]) -> None:
    """The script is loaded as zsh loads it, out of a directory of functions; what it hands over is printed instead of shown."""
    root, environment = place
    zsh = program("zsh", "zsh")
    (root / "functions").mkdir(exist_ok=True)
    (root / "functions" / "_backupctl").write_text(completion_script("zsh"))
    words = line.split(" ")
    script = (
        f"fpath=({root}/functions $fpath); autoload -Uz compinit; compinit -u -d {root}/dump\n"
        "[[ $_comps[backupctl] == _backupctl ]] || exit 3\n"
        'function compadd() { print -rl -- "${completions[@]}" }\n'
        'function _describe() { print -rl -- "${completions_with_descriptions[@]%%:*}" }\n'
        f"words=({' '.join(words)}); CURRENT={len(words)}\n"
        "_backupctl backupctl\n"
    )
    done = said([zsh, "-f", "-c", script], cwd=root, env=environment)
    assert set(done.split()) == offered


@pytest.mark.servers
@pytest.mark.parametrize(("line", "offered"), LINES)
def test_fish_completes(place: tuple[Path, dict[str, str]], line: str, offered: set[str]) -> None:
    root, environment = place
    fish = program("fish", "fish")
    (root / "backupctl.fish").write_text(completion_script("fish"))
    script = f"source {root}/backupctl.fish; complete -C '{line}'"
    done = said([fish, "--no-config", "-c", script], cwd=root, env=environment)
    assert {one.split("\t")[0] for one in done.splitlines()} == offered
