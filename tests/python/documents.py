"""docs/asyncapi.json and docs/openapi.json as what they demand of messages and answers."""

import itertools
import json

from jsonschema import Draft7Validator, Draft202012Validator

from servers import ROOT

ASYNCAPI = json.loads((ROOT / "docs/asyncapi.json").read_text())
OPENAPI = json.loads((ROOT / "docs/openapi.json").read_text())
PROTOCOL = (ROOT / "docs/protocol.md").read_text()


def resolve(document, value):
    while "$ref" in value:
        at = document
        for key in value["$ref"].removeprefix("#/").split("/"):
            at = at[key.replace("~1", "/").replace("~0", "~")]
        value = at
    return value


def references(value):
    """Every $ref below a value."""
    if isinstance(value, dict):
        yield from [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def rows_below(heading):
    """The cells of the rows of the first table of docs/protocol.md below a heading."""
    _, below = PROTOCOL.split(f"\n{heading}\n", 1)
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), below.splitlines())
    lines = itertools.takewhile(lambda line: line.startswith("|"), lines)
    rows = [line.strip("|").split("|") for line in lines][2:]
    return [[cell.strip().strip("`") for cell in row] for row in rows]


def validator(document, schema):
    """AsyncAPI's schemas are of draft 7, OpenAPI 3.1's of 2020-12; both refer into their document."""
    draft = Draft7Validator if "asyncapi" in document else Draft202012Validator
    return draft({**schema, "components": document["components"]})


def faults(document, schema, value):
    return [f"{error.json_path}: {error.message}" for error in validator(document, schema).iter_errors(value)]


def messages_of(operations, part="messages"):
    """The messages of operations of the client's channel, by name."""
    found = {}
    for operation in operations:
        for reference in operation.get(part, []):
            found[reference["$ref"].rsplit("/", 1)[1]] = resolve(ASYNCAPI, reference)
    return found


def client_operations(action):
    client = {"$ref": "#/channels/client"}
    operations = ASYNCAPI["operations"].values()
    return [each for each in operations if each["channel"] == client and each["action"] == action]


REQUESTS = messages_of(client_operations("receive"))
SENT = messages_of(client_operations("send")) | messages_of(
    [operation["reply"] for operation in client_operations("receive")]
)
PUBLISHED = ASYNCAPI["components"]["messages"]["published"]


def names_of(messages, value):
    """The messages that a value is one of."""
    return [name for name, each in messages.items() if not faults(ASYNCAPI, each["payload"], value)]


def check_answer(path, method, status, headers, body, schema=None):
    """What is wrong with an HTTP answer; `path` is the document's. `schema` is a narrower one."""
    operation = OPENAPI["paths"].get(path, {}).get("get" if method == "HEAD" else method.lower())
    everywhere = OPENAPI["x-everywhere"]
    documented = (operation or {"responses": {}})["responses"].get(str(status)) or everywhere.get(str(status))
    if documented is None:
        return [f"{method} {path}: status {status} is not in the document"]
    documented = resolve(OPENAPI, documented)
    found = []
    for name, header in documented.get("headers", {}).items():
        header = resolve(OPENAPI, header)
        if name not in headers:
            found += [f"{name} is missing"] if header.get("required") else []
        else:
            found += faults(OPENAPI, header["schema"], headers[name])
    kinds = documented.get("content", {})
    kind = headers.get("Content-Type")
    if method == "HEAD":
        found += ["HEAD has a body"] if body else []
    elif not kinds:
        found += [f"a body of {kind} is not in the document"] if body else []
    elif kind not in kinds:
        found.append(f"{kind} is not in the document")
    else:
        value = json.loads(body) if kind == "application/json" else body.decode().rstrip("\n")
        found += faults(OPENAPI, schema or kinds[kind]["schema"], value)
    return [f"{method} {path} {status}: {fault}" for fault in found]
