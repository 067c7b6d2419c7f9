"""What the documents say must be so: links lead somewhere, flags exist, code runs, fields of results are explained."""

import ast
import inspect
import io
import json
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from processes import quick_environment

from advx_jax import attacks
from advx_jax.cli.door import COMMANDS as MODULES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "advx_jax"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS, METHOD = ROOT / "docs" / "commands.md", ROOT / "docs" / "method.md"
SHIPPED = ("advx_jax", "benchmarks", "configs", "convert")
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def without_code(text: str) -> str:
    """The text without fenced blocks and code in lines, in which nothing is a link or a heading."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def headings(text: str) -> list[str]:
    return re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), flags=re.MULTILINE
    )


def anchors(path: Path) -> set[str]:
    """What can stand behind `#`: the document's own anchors, and those that GitHub makes of headings."""
    text = path.read_text(encoding="utf-8")
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(text)}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def flags_in(path: Path) -> set[str]:
    """Names of the flags that a source file defines, by whatever function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = ast.unparse(node.func).rpartition(".")[2].lower()
            if function.startswith("define") and isinstance(node.args[0].value, str):
                names.add(node.args[0].value)
    return names


def flags_of(command: str) -> set[str]:
    """Names of a command's flags, those of the modules that it shares with others too."""
    found: list[Path] = []
    modules = [PACKAGE.joinpath(*MODULES[command].split(".")[1:]).with_suffix(".py")]
    while modules:
        path = modules.pop()
        if path.exists() and path not in found:
            found.append(path)
            shared = re.findall(r"\b(\w+_flags|commands)\b", path.read_text(encoding="utf-8"))
            modules += [PACKAGE / "cli" / f"{name}.py" for name in shared]
    names = set().union(*map(flags_in, found))
    return names | {f"no{name}" for name in names}


def named_flags(text: str) -> Iterator[tuple[str, str]]:
    """Flags in a text: name, and what follows behind a dot."""
    for name, field in re.findall(r"(?<![\w-])--([a-z]\w*)((?:\.\w+)*)", text):
        yield name, field.removeprefix(".")


@each_document
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text(encoding="utf-8")))
    assert links
    for link in links:
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_document
def test_anchors_are_there_once(document):
    made = re.findall(r'<a id="([^"]+)">', document.read_text(encoding="utf-8"))
    assert len(made) == len(set(made))


def test_the_readme_leads_to_every_document():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for document in DOCUMENTS[1:]:
        assert f"(docs/{document.name}" in text, document.name


def sections(text: str) -> dict[str, str]:
    """The sections of the second level, by their headings."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_flags_of_each_command_are_its_own():
    text = COMMANDS.read_text(encoding="utf-8")
    commands = [name for name in sections(text) if name != "What all share"]
    assert len(commands) == 9
    for command in commands:
        named = {name for name, _ in named_flags(sections(text)[command])}
        assert len(named) >= 1
        assert named <= flags_of(command), command
    for name, _ in named_flags(sections(text)["What all share"]):
        assert name == "version" or any(name in flags_of(command) for command in commands), name


@each_document
def test_flags_in_examples_exist(document):
    text = document.read_text(encoding="utf-8")
    for command, rest in re.findall(r"\b(?:python -m advx_jax[. ]|advx )(?!help)([a-z]+)\b(.*)", text):
        assert {name for name, _ in named_flags(rest)} <= flags_of(command), (command, rest)


@each_document
def test_fields_of_recipes_exist(document):
    from advx_jax.configs.robust import get_config

    for name, field in named_flags(document.read_text(encoding="utf-8")):
        if name == "config" and field and not field.isupper():
            value = get_config().to_dict()
            for part in field.split("."):
                assert part in value, field
                value = value[part]


def test_every_environment_variable_is_explained():
    sources = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    read = set(re.findall(r"""environ(?:\.get\(|\.setdefault\(|\[)"([A-Z_]+)\"""", sources))
    assert len(read) >= 5
    assert read <= set(re.findall(r"`([A-Z_0-9]+)`", COMMANDS.read_text(encoding="utf-8")))


def fields_of(value: object) -> set[str]:
    """Names of all fields in what JSON holds."""
    if isinstance(value, list):
        return set().union(*map(fields_of, value))
    if isinstance(value, dict):
        return set(value).union(*map(fields_of, value.values()))
    return set()


@pytest.mark.parametrize(
    "name",
    [
        "accuracy.json", "ara/ara.json", "ara-best/ara.json", "explain/explanations.json",
        "robustness-L2-0.5/robustness.json",
    ],
)  # fmt: skip
def test_every_field_of_results_is_explained(name):
    results = json.loads((ROOT / "prebuilt/measured/resnet44-all" / name).read_text(encoding="utf-8"))
    explained = set(re.findall(r"`(\w+)`", COMMANDS.read_text(encoding="utf-8")))
    # Of a part of `best`, and what is called like an attack.
    fields = {field.rpartition(".")[2] for field in fields_of(results)} - {"apgd-ce", "apgd-t", "fab-t"}
    assert len(fields) > 15
    assert fields <= explained


PARSER = """
import importlib, json, os, sys
from absl import flags
from advx_jax.cli import commands
module = importlib.import_module(sys.argv[1])
parse = module.training_flags.parse if sys.argv[1].endswith("train") else flags.FLAGS
for line in json.loads(sys.argv[2]):
    # The fields of a recipe become flags once in a process.
    if pid := os.fork():
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"cannot be parsed: {line}")
        continue
    sys.argv = ["advx", *line]  # where ml_collections looks, too
    if left := parse(sys.argv)[1 if parse is flags.FLAGS else 0:]:
        print(*left)
    sys.stdout.flush()
    os._exit(0)  # without looking through all that is imported for garbage
"""


def command_lines() -> dict[str, list[list[str]]]:
    """Arguments of every call in a block for the shell, by command."""
    found: dict[str, list[list[str]]] = {}
    for document in DOCUMENTS:
        blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            line = line.replace("$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT", "1/8")
            for name, rest in re.findall(r"(?:python -m advx_jax\.|\badvx )([a-z]+)([^\"]*)", line):
                arguments = shlex.split(rest, comments=True)
                if arguments not in found.setdefault(name, []):
                    found[name].append(arguments)
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name in command_lines()])
def test_command_lines_are_understood(name):
    """Every call that the documents show has flags and values that the command takes."""
    lines = [[word for word in line if word != "&&"] for line in command_lines()[name]]
    command = [sys.executable, "-c", PARSER, MODULES[name], json.dumps(lines)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert name == "convert" or not run.stdout, run.stdout


def test_the_documents_show_every_command():
    assert set(command_lines()) == set(MODULES)


# These compile networks several times. Their names and arguments are looked at in the default run.
SLOW_BLOCKS = {
    *("attacks.md-0", "faithfulness.md-0", "faithfulness.md-1"),
    *("attributions.md-0", "attributions.md-1", "attributions.md-2"),
    *("extending.md-0", "extending.md-1", "extending.md-2"),
    *("own-models.md-2", "own-models.md-3", "own-models.md-4", "own-models.md-5"),
}
PYTHON_BLOCKS = [
    pytest.param(block, id=name, marks=pytest.mark.slow if name in SLOW_BLOCKS else ())
    for document in DOCUMENTS[1:]
    for name, block in (
        (f"{document.name}-{place}", block)
        for place, block in enumerate(
            re.findall(r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        )
    )
    # A model, which the commands take from its file.
    if not block.startswith("# mine.py") or "__main__" in block
]


@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_code_runs(block, tmp_path):
    """Each block is a program; that of the README has a test of its own."""
    command = [sys.executable, "-W", "error", "-c", block]
    environment = quick_environment(tmp_path / "cache")
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout


def resolved(node: ast.expr, known: dict[str, object]) -> object:
    """What a name or a dotted name in a program is, where that is known from its imports; else None."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    owner = resolved(node.value, known) if isinstance(node, ast.Attribute) else None
    if isinstance(owner, types.ModuleType | type):
        return getattr(owner, node.attr)
    return None


def takes(function: object, argument: str) -> bool:
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


@pytest.mark.parametrize("block", [pytest.param(*block.values, id=block.id) for block in PYTHON_BLOCKS])
def test_code_names_what_is_there(block):
    """Every imported name, attribute of a module and argument of its functions exists."""
    program, known = ast.parse(block), {}
    imports = [node for node in program.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, []), "block", "exec"), known)
    for node in ast.walk(program):
        if isinstance(node, ast.Attribute):
            resolved(node, known)
        if isinstance(node, ast.Call) and callable(function := resolved(node.func, known)):
            for argument in node.keywords:
                assert argument.arg is None or takes(function, argument.arg), ast.unparse(node)


FILES_IN_DOCUMENTS = re.compile(r"^# (\w+\.py)\n")


def run_document(name: str, folder: Path) -> int:
    """Write the files that a document shows, and run its commands among them; returns how many there are."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        if file := FILES_IN_DOCUMENTS.match(block):
            (folder / file[1]).write_text(block, encoding="utf-8")
            assert len(block.splitlines()) <= 45, file[1]
            if file[1] in ("digits.py", "photos.py"):
                subprocess.run([sys.executable, file[1]], check=True, cwd=folder)
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    for line in lines:
        command = [sys.executable, "-m", "advx_jax", *shlex.split(line)[1:]]
        run = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder)
        assert run.returncode == 0, run.stderr
    return len(lines)


@pytest.mark.slow
def test_commands_with_a_model_of_ones_own_run(tmp_path):
    assert run_document("own-models.md", tmp_path) == 4
    accuracy = json.loads((tmp_path / "robustness/mine_net-Linf-0.1-apgd-ce/robustness.json").read_text())
    assert accuracy["accuracy"] > 0.8
    assert accuracy["robust_accuracy"] < accuracy["accuracy"]
    results = json.loads((tmp_path / "output/explanations.json").read_text())
    assert results["class_names"][3] == "digit 3"
    assert list(results["images"][0]["methods"]) == ["adversarial", "input_x_gradient"]
    assert json.loads((tmp_path / "ara/mine_net-fmn/ara.json").read_text())["settings"]["model"] == "mine_net"


@pytest.mark.slow
def test_commands_with_images_of_ones_own_run(tmp_path):
    assert run_document("own-images.md", tmp_path) == 5
    results = json.loads((tmp_path / "output/explanations.json").read_text())
    assert [entry["folder"] for entry in results["images"]] == ["0-cat", "10-dog", "20-ship"]
    results = json.loads((tmp_path / "by-mine/explanations.json").read_text())
    assert results["class_names"] == ["cat", "dog", "ship"]


@pytest.mark.slow
def test_commands_with_code_of_ones_own_run(tmp_path):
    """What `docs/extending.md` writes into files, and the commands that take it from there, beside an image."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "grey.png").write_bytes(grey_png())
    assert run_document("extending.md", tmp_path) == 3
    results = json.loads(
        (tmp_path / "robustness/resnet20-quick-standard-Linf-0.0313725-fgsm/robustness.json").read_text()
    )
    assert results["robust_accuracy"] < results["accuracy"]
    area = json.loads((tmp_path / "ara/resnet20-quick-robust-carliniwagner/ara.json").read_text())
    assert area["settings"]["learning_rate"] == 0.1
    assert area["settings"]["steps"] == area["gradient_evaluations"] == 20


def grey_png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), (128, 128, 128)).save(stream, "PNG")
    return stream.getvalue()


def test_costs_of_attacks_are_those_of_the_code():
    text = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \| [^|]*\|$", text, flags=re.MULTILINE))
    for name, evaluations in told.items():
        attack = getattr(attacks, name)
        norms = getattr(attack, "norms", ("L2",))
        ball = {"eps": 0.5, "norm": "L2" if "L2" in norms else norms[0]}
        attack = attack if isinstance(attack, attacks.Attack) else attack(**(ball if "eps" in needed(attack) else {}))
        assert attack.evaluations == int(evaluations.replace(",", "")), name
    bases = {
        "Attack",
        "Ensemble",
        "FirstSuccess",
        "FixedEpsilon",
        "MinimumNorm",
        "RandomStart",
        "Restarted",
        "SmallestSuccess",
    }
    offered = {name for name in attacks.__all__ if isinstance(getattr(attacks, name), attacks.Attack | type)}
    offered = {name for name in offered if issubclass(as_class(getattr(attacks, name)), attacks.Attack)}
    assert set(told) == offered - bases


def needed(attack: type) -> set[str]:
    return {
        name for name, argument in inspect.signature(attack).parameters.items() if argument.default is argument.empty
    }


def as_class(thing: object) -> type:
    return thing if isinstance(thing, type) else type(thing)


def shipped_files() -> list[Path]:
    folders = [path for name in SHIPPED for path in (ROOT / name).rglob("*")]
    return [path for path in [*folders, *DOCUMENTS] if path.suffix in {".py", ".md", ".j2"}]


def test_shipped_files_refer_to_documents_that_are_shipped():
    """Nobody outside has a specification; what explains the method is docs/method.md, and its sections exist."""
    titles = {re.sub(r"^[\d.]+ ", "", heading) for heading in headings(METHOD.read_text(encoding="utf-8"))}
    referring = 0
    for path in shipped_files():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bspec(?:ification)? section|\bspec(?:\.md|\s*§|, notation)", text), path
        for title in re.findall(r"docs/method\.md, ([^).:;\n]+)", text):
            assert title in titles, (path, title)
            referring += 1
    assert referring >= 10
