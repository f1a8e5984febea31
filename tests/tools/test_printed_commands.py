"""Every command that READMEs, help texts and the ledgers print starts the same way, and its program understands it."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

from fapn_d2.engine.setup import EPILOG
from fapn_d2.reproduction.ledger import load_ledgers
from fapn_d2.reproduction.listing import describe_row

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted([*ROOT.glob("tools/*.py"), *ROOT.glob("datasets/*.py")])
PYTHON = ".venv/bin/python"
#: A program that begins a line, perhaps behind a label, or begins a piece of code in a line.
_START = re.compile(
    r"(?:^ *(?:[a-z]+ {3,})?|`)((?:[^\s`]*python3? )?(?:tools|datasets)/\w+\.py(?: [^`\n]*)?)", re.MULTILINE
)


def texts() -> dict[str, str]:
    """Where commands are printed -> the text, continued lines joined."""
    found = {str(path.relative_to(ROOT)): path.read_text() for path in PROGRAMS}
    for path in [ROOT / "README.md", *ROOT.glob("datasets/*.md"), *ROOT.glob("configs/**/*.md")]:
        found[str(path.relative_to(ROOT))] = path.read_text()
    found["help of train_net"] = EPILOG
    for ledger in load_ledgers():
        for row in [row for row in ledger.rows if not row.pending][:1]:
            found[row.id] = describe_row(row)
    return {place: re.sub(r"\\+\n\s*", " ", text) for place, text in found.items()}


def commands() -> dict[str, str]:
    """Command -> where it is printed."""
    found = {}
    for place, text in texts().items():
        for match in _START.finditer(text):
            command = match.group(1).split(" #")[0]
            command = command.strip()
            alone = len(command.split()) == 1  # the name of a program in a sentence
            if not alone or match.group(0)[0] != "`":
                found.setdefault(command, place)
    return found


class _Parsed(Exception):
    pass


def check(command: str) -> str:
    """What is wrong with a command; "" if its program understands it."""
    if not command.startswith(f"{PYTHON} "):
        return "does not say which Python"
    program, *words = shlex.split(command.removeprefix(PYTHON))
    sys.argv = [program, *words]
    try:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    except _Parsed:
        pass
    except SystemExit as end:
        if end.code:  # 0 after --help
            return f"exit code {end.code}"
    # A shell loop's variables and "mine" stand for what the reader has.
    configs = [word for word in words if re.fullmatch(r"configs/(?!mine/)[\w/.]+\.yaml", word)]
    return "".join(f"{config} does not exist" for config in configs if not (ROOT / config).is_file())


def test_programs_understand_the_commands(monkeypatch, capsys):
    read = argparse.ArgumentParser.parse_args

    def parse(self, *args, **kwargs):
        read(self, *args, **kwargs)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", sys.argv)
    found = commands()
    assert len(found) > 50
    wrong = {f"{place}: {command}": error for command, place in found.items() if (error := check(command))}
    assert not wrong, f"{wrong}\n{capsys.readouterr().err}"


def test_programs_are_started_by_the_interpreter_of_the_environment():
    """A first line or a mode that the system's Python would follow is in none of them."""
    for path in PROGRAMS:
        assert not path.read_text().startswith("#!"), path
        assert not path.stat().st_mode & 0o111, path
