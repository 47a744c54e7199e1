#!/usr/bin/env python3
"""Validates schemas/ with an independent JSON Schema validator.

Checks every schema file against schemas/meta/goliath.json, and every example of a command against
the schemas of its arguments and its answer. With a second argument, a file of recorded exchanges
(execute, arguments, reply, events), those too. Exit status: 0 valid, 1 invalid, 77 when the Python
package jsonschema is missing.
"""

import json
import pathlib
import sys

try:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource
except ImportError:
    print("jsonschema is not installed (PyPI package jsonschema 4.18 or later)")
    sys.exit(77)


def main() -> int:
    folder = pathlib.Path(sys.argv[1])
    manifest = json.loads((folder / "goliath.json").read_text())
    meta = json.loads((folder / "meta" / "goliath.json").read_text())
    files = {name: json.loads((folder / name).read_text()) for name in manifest["files"]}
    registry = Registry().with_resources(
        (document["$id"], Resource.from_contents(document))
        for document in [meta, *files.values()]
    )
    faults = []

    def check(schema, value, where):
        for error in Draft202012Validator(schema, registry=registry).iter_errors(value):
            path = "/".join(str(part) for part in error.absolute_path)
            faults.append(f"{where}: {path}: {error.message}")

    Draft202012Validator.check_schema(meta)
    stray = {path.name for path in folder.glob("*.json")} - set(files) - {"goliath.json"}
    faults += [f"{name}: is not listed in goliath.json" for name in sorted(stray)]
    for name, document in files.items():
        check(meta, document, name)
        if document["$id"].rsplit("/", 1)[1] != name:
            faults.append(f"{name}: $id does not end in the file name")

    def part(name, *keys):
        pointer = "/".join(key.replace("~", "~0").replace("/", "~1") for key in keys)
        return {"$ref": f"{files[name]['$id']}#/{pointer}"}

    where_is = {
        entry: (name, kind)
        for name, document in files.items()
        for kind in ("commands", "events")
        for entry in document.get(kind, {})
    }

    def check_exchange(exchange, where):
        name, kind = where_is[exchange["execute"]]
        entry = files[name][kind][exchange["execute"]]
        if "error" in exchange["reply"]:
            return
        if "arguments" in entry:
            schema = part(name, kind, exchange["execute"], "arguments")
            check(schema, exchange["arguments"], where)
        if "returns" in entry:
            schema = part(name, kind, exchange["execute"], "returns")
            check(schema, exchange["reply"]["return"], where)
        for event in exchange["events"]:
            name, kind = where_is[event["event"]]
            if "data" in files[name][kind][event["event"]]:
                schema = part(name, kind, event["event"], "data")
                check(schema, event["data"], f"{where}: {event['event']}")

    recorded = json.loads(pathlib.Path(sys.argv[2]).read_text()) if len(sys.argv) > 2 else []
    for number, exchange in enumerate(recorded):
        check_exchange(exchange, f"exchange {number}: {exchange['execute']}")

    examples = 0
    for name, document in files.items():
        for command, entry in document.get("commands", {}).items():
            for number, example in enumerate(entry.get("examples", [])):
                where = f"{name}: {command}: example {number}"
                request = example["request"]
                if request["execute"] != command:
                    faults.append(f"{where}: is of another command")
                if "arguments" in entry:
                    schema = part(name, "commands", command, "arguments")
                    check(schema, request.get("arguments", {}), where)
                if "returns" in entry:
                    schema = part(name, "commands", command, "returns")
                    check(schema, example["reply"]["return"], where)
                examples += 1

    for fault in faults:
        print(fault)
    if not faults:
        print(
            f"{len(files)} files, {examples} examples and {len(recorded)} exchanges are valid"
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
