#!/usr/bin/env python3
"""layers.py FILE... - check who includes whom.

A folder includes public headers of folders below it, never of one above; a private header stays in its
folder; no include cycle by file or by folder.  The table is the one of README.md, "Layers".
"""
import os
import re
import sys

# folder -> what it may include besides its own files: folders (base), or single public headers
BASE = "backends/base/"
PUBLIC = {
    "daemon": ["scheduler/scheduler.h", "engine/text.h", "conf/options.def", BASE],
    "scheduler": ["engine/engine.h", "engine/text.h", "kvcache/kvcache.h", "backends/backend.h", "backends/program.h", BASE],
    "engine": ["kvcache/view.h", "kvcache/layout.h", "backends/backend.h", "backends/program.h", BASE],
    "kvcache": ["backends/backend.h", "backends/program.h", BASE],
    "backends": [BASE],
    "backends/base": [],
}
PROGRAMS = {  # composed of every public header
    "daemon/main.c": ["engine/engine.h", "kvcache/kvcache.h", "backends/backend.h", "backends/program.h"],
    "engine/tools/probe_backend.c": ["kvcache/kvcache.h"],
}


def folder_of(path):
    parts = path.split("/")
    if parts[0] == "backends" and len(parts) > 2:
        return "/".join(parts[:2])
    return parts[0]


def allowed(path, target):
    folder, owner = folder_of(path), folder_of(target)
    if folder == owner:
        return True
    if target in PROGRAMS.get(path, []):
        return True
    if folder.startswith("backends/") and folder != "backends/base":
        return target.startswith(BASE) or target in ("backends/backend.h", "backends/program.h", "backends/registry.h")
    if path == "backends/registry.c" and re.fullmatch(r"backends/\w+/\w+\.h", target):
        return True
    return any(target == a or (a.endswith("/") and target.startswith(a)) for a in PUBLIC.get(folder, []))


def cycles(graph):
    state, found = {}, []

    def visit(node, trail):
        state[node] = 1
        for target in sorted(graph.get(node, ())):
            if state.get(target) == 1:
                found.append(trail[trail.index(target):] + [target])
            elif target not in state:
                visit(target, trail + [target])
        state[node] = 2

    for node in sorted(graph):
        if node not in state:
            visit(node, [node])
    return found


def main():
    bad, files, folders = 0, {}, {}
    for path in sys.argv[1:]:
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as f:
            includes = re.findall(r'^#include "([^"]+)"', f.read(), re.M)
        files[path] = set(includes)
        for target in includes:
            if not os.path.exists(target):
                print("lint: %s includes %s: not a path from the root" % (path, target))
                bad = 1
                continue
            if path.startswith("tests/"):
                if target.endswith(".c"):
                    print("lint: %s includes a .c file" % path)
                    bad = 1
                continue
            if folder_of(path) != folder_of(target) and path not in PROGRAMS:
                folders.setdefault(folder_of(path), set()).add(folder_of(target))
            if not allowed(path, target):
                print("lint: %s may not include %s" % (path, target))
                bad = 1
    folders.get("backends", set()).difference_update(f for f in folders if f.startswith("backends/"))
    for cycle in cycles(files) + cycles(folders):
        print("lint: include cycle: %s" % " -> ".join(cycle))
        bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main())
