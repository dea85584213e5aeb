"""The house rules of the code: private names stay in their file, files stay short, modules say what they are."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sau", "tasks", "flows", "benchmarks")


def files(*tops: str) -> dict[str, str]:
    """The Python files below `tops`, by path from the root on, with their text."""
    paths = [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def private_imports(code: str) -> list[str]:
    """What a file imports of the project's packages by a private name, or from a private module."""
    names = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.startswith(PACKAGES) and re.search(r"\._(?!_)", name)]


def first_sentence(code: str) -> str:
    """Of the first paragraph of a module's docstring, or nothing where none ends there; `et al. 2023` ends none."""
    paragraph = (ast.get_docstring(ast.parse(code)) or "").partition("\n\n")[0]
    found = re.match(r".+?(?<! al)[.?!](?= |$)", " ".join(paragraph.split()))
    return found[0] if found else ""


def test_no_file_imports_anothers_private_name():
    found = {file: private_imports(code) for file, code in files(*PACKAGES, "tests").items()}
    assert len(found) > 100
    assert {file: names for file, names in found.items() if names} == {}


def test_a_private_import_is_seen():
    code = "from sau.a import b, _c\nfrom sau._d import e\nfrom sau import __version__\nimport tasks._f, torch._g"
    assert private_imports(code) == ["sau.a._c", "sau._d.e", "tasks._f"]


def test_no_file_of_the_library_is_long():
    assert [file for file, code in files("sau").items() if len(code.splitlines()) > 290] == []


def test_every_module_says_in_its_first_sentence_what_it_is():
    modules = {file: code for file, code in files("sau", "tasks", "flows").items() if code.strip()}
    assert [file for file, code in modules.items() if not 1 <= len(first_sentence(code)) <= 150] == []


def test_a_first_sentence_ends_in_its_paragraph():
    assert first_sentence('"""What it is (A et al. 2023).\nMore.\n\nRest."""') == "What it is (A et al. 2023)."
    assert first_sentence('"""One line\nor two. Then more."""') == "One line or two."
    assert first_sentence('"""No end\n\nHere it is."""') == ""
    assert first_sentence("x = 1") == ""


UNSAFE = {
    "eval", "exec", "pickle.load", "pickle.loads", "torch.load", "joblib.load", "yaml.unsafe_load", "yaml.full_load",
    "os.system", ".extractall", "mlflow.pyfunc.load_model", "mlflow.transformers.load_model",
    "mlflow.pytorch.load_model",
}  # fmt: skip
NEEDED = {"from_pretrained": ("trust_remote_code", False), "from_config": ("trust_remote_code", False),
          "np.load": ("allow_pickle", False), "Environment": ("autoescape", None)}  # fmt: skip


def unsafe_calls(code: str) -> list[str]:
    """Calls that run what a file says, or that have to be told not to and are not: transformers' by `Auto...`."""
    found = []
    for node in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        name, given = ast.unparse(node.func), {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        last = name.rpartition(".")[2]
        keyword, value = NEEDED.get(name, NEEDED.get(last, ("", None)))
        told = not keyword or (keyword in given and value in (None, given[keyword]))
        if {name, f".{last}"} & UNSAFE or (not told and (name == last or name.startswith(("Auto", "np.")))):
            found.append(name)
        if name in ("subprocess.run", "subprocess.Popen") and given.get("shell"):
            found.append(f"{name} in a shell")
    return found


def test_nothing_runs_what_a_file_says():
    found = {file: unsafe_calls(code) for file, code in files("sau", "tasks", "flows").items()}
    # Sealed by a key of its own, which none but the processes at work have: nobody else can have written it.
    sealed = {"tasks/engines/several.py": ["pickle.loads"]}
    assert {file: calls for file, calls in found.items() if calls} == sealed


def test_an_unsafe_call_is_seen():
    code = """
AutoModel.from_pretrained(x); AutoModel.from_pretrained(x, trust_remote_code=True); torch.load(x); np.load(x)
Environment(loader=y); subprocess.run(x, shell=True); archive.extractall(z)
AutoModel.from_pretrained(x, trust_remote_code=False); np.load(x, allow_pickle=False); Environment(autoescape=f())
"""
    wanted = ["AutoModel.from_pretrained"] * 2 + ["torch.load", "np.load", "Environment"]
    assert unsafe_calls(code) == [*wanted, "subprocess.run in a shell", "archive.extractall"]
