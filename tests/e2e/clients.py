"""The official clients, from their registries into build/e2e, once; exit 77 where there is none."""
import importlib.util
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLACE = os.path.join(ROOT, "build", "e2e")
PYTHON_CLIENT = "openai"
NODE_CLIENT = "openai"


def skip(reason):
    print("skipped: " + reason)
    sys.exit(77)


def python_client():
    """Make `import openai` work: by going on in a virtual environment where it is not installed."""
    if importlib.util.find_spec("openai") is not None:
        return
    place = os.path.join(PLACE, "venv")
    python = os.path.join(place, "bin", "python3")
    if os.path.realpath(sys.prefix) == os.path.realpath(place):
        skip("the openai package cannot be imported")
    if not os.path.exists(os.path.join(place, ".done")):
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=False)
        if made.returncode != 0:
            skip("python3 -m venv failed")
        got = subprocess.run([python, "-m", "pip", "install", "-q", PYTHON_CLIENT], check=False)
        if got.returncode != 0:
            skip("no package registry with openai")
        open(os.path.join(place, ".done"), "w", encoding="utf-8").close()
    os.execv(python, [python, *sys.argv])


def node_client():
    """The directory whose node_modules has openai."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        skip("node and npm are not installed")
    place = os.path.join(PLACE, "node")
    if not os.path.exists(os.path.join(place, "node_modules", "openai", "package.json")):
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "package.json"), "w", encoding="utf-8") as file:
            file.write('{"name":"fathom-tests","private":true}\n')
        got = subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", NODE_CLIENT],
                             cwd=place, check=False, stdin=subprocess.DEVNULL)
        if got.returncode != 0:
            skip("no package registry with openai for node")
    return place
