"""`advx` and `python -m advx_jax` open every command as `python -m advx_jax.NAME` does, and tell which there are."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from parametrised import some
from processes import interrupted_while_importing

import advx_jax
from advx_jax.cli.door import COMMANDS

ROOT = Path(__file__).parents[1]
# What `python -m` takes, where that is not the name.
LONG_NAMES = {"data": "data.cifar10"}
# ml_collections loads configs in an old way of Python's; all other warnings are errors.
PYTHON = (sys.executable, "-W", "error", "-W", "ignore:the load_module() method is deprecated:DeprecationWarning")
DOOR = ("-m", "advx_jax")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """What an installer makes of the project's entry point, in a folder like those for scripts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["scripts"]["advx"].split(":")
    path = tmp_path_factory.mktemp("bin") / "advx"
    path.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return str(path)


@pytest.fixture
def call(tmp_path):
    """Start several commands at once in a folder that is not the clone; what each did, in their order."""

    def started(*commands: tuple[str, ...]) -> list[tuple[int, str, str]]:
        environment = {**os.environ, "ADVX_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
        for name in ("CIFAR10_PATH", "TF_CPP_MIN_LOG_LEVEL"):
            environment.pop(name, None)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes = [
            subprocess.Popen([*PYTHON, *command], cwd=tmp_path, env=environment, **pipes) for command in commands
        ]
        done = [process.communicate(timeout=120) for process in processes]
        return [(process.returncode, *texts) for process, texts in zip(processes, done, strict=True)]

    return started


def long(command: str) -> tuple[str, str]:
    return "-m", f"advx_jax.{LONG_NAMES.get(command, command)}"


# By default one of each place in which commands are.
BRIEFLY = ("explain", "convert", "data")


@some("command", COMMANDS, by_default=BRIEFLY)
def test_help_is_that_of_the_command(command, script, call):
    plain, through = call((*long(command), "--help"), (script, command, "--help"))
    assert plain == through
    assert (plain[0], plain[2]) == (0, "")
    examples, _, flags = plain[1].partition("\n\nFlags:\n")
    assert f"python -m advx_jax.{LONG_NAMES.get(command, command)} " in examples
    assert flags.startswith("  --")


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("explain", ["--modle=x"], "Unknown command line flag 'modle'. Did you mean: model ?"),
        pytest.param(
            "train",
            ["--config=configs/smoke.py", "--config.epoch=2"],
            "config has no field epoch; did you mean epochs?",
            marks=pytest.mark.slow,
        ),
        pytest.param("convert", ["nowhere.pt"], "nowhere.pt", marks=pytest.mark.slow),
    ],
)
def test_errors_are_those_of_the_command(command, arguments, message, script, call):
    plain, through = call((*long(command), *arguments), (*DOOR, command, *arguments))
    assert plain == through
    status, out, err = plain
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_help_lists_the_commands_with_their_first_lines(script, call):
    first, *others = call((script,), (script, "--help"), (script, "help"), (*DOOR, "-h"), ("-OO", *DOOR, "--help"))
    assert all(other == first for other in others)
    status, out, err = first
    assert (status, err) == (0, "")
    for name in COMMANDS:
        (line,) = [line for line in out.splitlines() if line.split()[:2] == ["advx", name]]
        assert line.endswith(".")
        assert len(line) <= 120


def test_help_before_a_command_is_help_behind_it(script, call):
    before, behind, bare = call((script, "help", "data"), (*DOOR, "data", "--help"), ("-OO", script, "data", "-h"))
    assert before == behind == bare
    assert "--output_dir" in before[1]


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        (["explian"], "'explian'; did you mean explain?"),
        (["help", "robustnes"], "'robustnes'; did you mean robustness?"),
        (["--verson"], "'--verson'; did you mean --version?"),
        (["--model=resnet44-all", "explain"], "'--model=resnet44-all'"),
        ([""], "''"),
    ],
)
def test_what_is_no_command_is_one_line(arguments, got, script, call):
    ((status, out, err),) = call((script, *arguments))
    assert (status, out) == (1, "")
    assert err == f"error: expected a command ({', '.join(COMMANDS)}) as the first word, got {got}\n"


def test_version_tells_the_releases(script, call):
    by_script, by_module = call((script, "--version"), (*DOOR, "--version"))
    assert by_script == by_module
    jax, jaxlib = (importlib.metadata.version(name) for name in ("jax", "jaxlib"))
    python = ".".join(map(str, sys.version_info[:3]))
    assert by_script == (0, f"advx_jax {advx_jax.__version__} (jax {jax}, jaxlib {jaxlib}, Python {python})\n", "")


@pytest.mark.parametrize("argument", ["--help", "--version", "explian"])
def test_it_answers_without_what_takes_long_to_import(argument, call):
    code = (
        "import atexit, sys; from advx_jax.cli.door import main; "
        "atexit.register(lambda: print('\\n', *sys.modules)); main()"
    )
    ((_, out, _),) = call(("-c", code, argument))
    loaded = set(out.splitlines()[-1].split())
    assert "advx_jax.cli.door" in loaded
    assert not {"jax", "numpy", "flax", "optax", "matplotlib", *COMMANDS.values()} & loaded


def test_an_attack_of_the_working_folder_is_found_as_with_python_m(script, call, tmp_path):
    """The script's own folder stands where the working folder is with `python -m`."""
    (tmp_path / "own_attack.py").write_text("")
    arguments = ("robustness", "--eps=0.5", "--attack=own_attack:Mine")
    plain, through = call((*long(arguments[0]), *arguments[1:]), (script, *arguments))
    assert plain == through
    assert "expected own_attack to have an attack 'Mine'" in plain[2]


def test_a_module_of_the_working_folder_does_not_stand_in_for_what_commands_import(script, call, tmp_path):
    (tmp_path / "flax.py").write_text("raise ImportError('not meant')\n")
    ((status, _, err),) = call((script, "evaluate", "--help"))
    assert (status, err) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_while_the_command_is_imported_is_a_line(tmp_path):
    code = "from advx_jax.cli.door import main; print(flush=True); main()"
    done = interrupted_while_importing(code, "train", "--config=configs/smoke.py", folder=tmp_path)
    assert done == (130, "\ninterrupted; what was finished is kept\n")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
@pytest.mark.parametrize("arguments", [["--help"], ["data", "--help"]])
def test_a_reader_who_left_gets_no_complaint(arguments, script):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, script, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
