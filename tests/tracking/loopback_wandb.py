"""A stand-in for the W&B server on 127.0.0.1: it takes runs, files, artifacts and reports, and remembers them."""

import base64
import gzip
import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY = "loopback"


def identifier(kind, *parts):
    """Ids are base64 texts, which the client takes apart."""
    return base64.b64encode(":".join([kind, "v1", *parts]).encode()).decode()


class Server:
    """What was received; `url` is where it listens.

    Attributes:
        runs: run id -> what the client said about it.
        history: run id -> lines of the history.
        summaries: run id -> the last summary.
        uploads: path -> bytes.
        reports: id -> the saved report.
        unknown: names of queries that nobody here answers.
        requests: paths of everything that was posted.
    """

    def __init__(self):
        self.runs, self.history, self.summaries, self.uploads = {}, {}, {}, {}
        self.artifacts, self.reports, self.unknown, self.requests = {}, {}, [], []
        handler = type("Handler", (Handler,), {"server_state": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        """Stop listening."""
        self.http.shutdown()
        self.http.server_close()

    def answer(self, name, query, given):
        """The data of a GraphQL answer."""
        if re.search(r"__type\s*\(|__schema", query):
            names = re.findall(r"(\w+)\s*:\s*__type", query) or ["__type"]
            return {n: {"name": n, "fields": [], "inputFields": [], "enumValues": []} for n in names}
        method = getattr(self, f"on_{name.lower()}", None)
        if method:
            return method(given)
        viewer = {"id": identifier("User", ENTITY), "username": ENTITY, "entity": ENTITY, "email": "e@x"}
        viewer |= {"flags": "{}", "admin": False, "teams": {"edges": []}, "apiKeys": {"edges": []}}
        if "viewer" in query or "serverInfo" in query:
            version = {"max_cli_version": "9.9.9"}
            server = {"features": [], "cliVersionInfo": version, "latestLocalVersionInfo": None}
            return {"viewer": viewer, "serverInfo": server}
        self.unknown.append(name)
        return {}

    def on_runresumestatus(self, given):
        """No run is known from before."""
        return {"model": None}

    def on_upsertbucket(self, given):
        """A run begins, or says more about itself."""
        name = given["name"]
        self.runs.setdefault(name, {}).update({k: v for k, v in given.items() if v not in (None, "")})
        project, entity = given.get("project") or "project", given.get("entity") or ENTITY
        node = {"id": identifier("Run", name, project, entity), "name": name, "displayName": name}
        node |= {"description": "", "config": "{}", "sweepName": None, "historyLineCount": 0}
        owner = {"id": identifier("Entity", entity), "name": entity}
        node["project"] = {"id": identifier("Project", project), "name": project, "entity": owner}
        return {"upsertBucket": {"bucket": node, "inserted": True}}

    def on_createrunfiles(self, given):
        """Where files go."""
        files = [{"name": f, "uploadUrl": f"{self.url}/files/{given['run']}/{f}"} for f in given["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def on_createartifact(self, given):
        """A table or a file set begins."""
        given = given.get("input", given)
        key = identifier("Artifact", uuid.uuid4().hex)
        self.artifacts[key] = {k: given.get(k) for k in ("clientID", "sequenceClientID", "artifactTypeName")}
        sequence = {"id": identifier("ArtifactSequence", key), "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": key, "state": "PENDING", "artifactSequence": sequence}}}

    def _manifest(self, artifact):
        file = {"id": "f", "name": "wandb_manifest.json", "displayName": "wandb_manifest.json"}
        file |= {"uploadUrl": f"{self.url}/manifests/{artifact}", "uploadHeaders": []}
        return {"artifactManifest": {"id": identifier("ArtifactManifest", str(artifact)), "file": file}}

    def on_createartifactmanifest(self, given):
        """Where the list of its files goes."""
        given = given.get("input", given)
        return {"createArtifactManifest": self._manifest(given.get("artifactID") or given.get("artifactId"))}

    def on_updateartifactmanifest(self, given):
        """The same once more."""
        return {"updateArtifactManifest": self._manifest(given.get("artifactID"))}

    def on_createartifactfiles(self, given):
        """Where its files go."""
        wanted = given.get("artifactFiles") or given.get("input", {}).get("artifactFiles") or []
        edges = [
            {
                "node": {
                    "id": str(number),
                    "name": file["name"],
                    "displayName": file["name"],
                    "uploadUrl": f"{self.url}/artifacts/{file['artifactID']}/{file['name']}",
                    "uploadHeaders": [],
                    "storagePath": file["name"],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": file["artifactID"]},
                }
            }
            for number, file in enumerate(wanted)
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_commitartifact(self, given):
        """It is whole."""
        key = given.get("artifactID") or given.get("input", {}).get("artifactID")
        self.artifacts.setdefault(key, {})["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": key, "digest": "d"}}}

    def on_clientidmapping(self, given):
        """The client's name for an artifact, and ours."""
        for key, artifact in self.artifacts.items():
            if given["clientID"] in artifact.values():
                return {"clientIDMapping": {"serverID": key}}
        return {"clientIDMapping": None}

    def on_artifacttype(self, given):
        """No kind of artifact is known from before."""
        return {"project": {"artifact": None, "artifactType": None}}

    def on_upsertview(self, given):
        """A report is saved."""
        given = given.get("input", given)
        key = identifier("View", uuid.uuid4().hex)
        self.reports[key] = given
        view = {
            "id": key,
            "project": {"id": "p", "name": given["projectName"], "entityName": given["entityName"]},
        }
        view |= {k: given.get(k) for k in ("name", "type", "displayName", "description", "spec")}
        return {"upsertView": {"view": view | {"updatedAt": "2026-01-01T00:00:00"}, "inserted": True}}

    def on_projectinternalid(self, given):
        """Panels name their project by it."""
        project = identifier("Project", given["projectName"])
        return {"project": {"id": project, "internalId": identifier("ProjectInternalId", "1")}}

    def on_getprojects(self, given):
        """There is none yet."""
        return {"models": {"edges": [], "pageInfo": {"hasNextPage": False, "endCursor": None}}}

    def on_upsertmodel(self, given):
        """A project is made."""
        project = {
            "id": "p",
            "name": given.get("name"),
            "entityName": ENTITY,
            "description": "",
            "access": "",
        }
        return {"upsertModel": {"project": project, "model": project, "inserted": True}}


class Handler(BaseHTTPRequestHandler):
    """GraphQL, the stream of history lines, and uploads."""

    protocol_version = "HTTP/1.1"
    server_state: Server

    def log_message(self, *args):
        """Silence."""

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _reply(self, content):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        """GraphQL and the file stream."""
        state, data = self.server_state, self._body()
        state.requests.append(self.path)
        if "/otel/" in self.path:  # the client's own telemetry, no JSON
            self._reply({})
            return
        body = json.loads(data or b"{}")
        if self.path.endswith("/graphql"):
            query = body["query"]
            named = re.search(r"(?:query|mutation)\s+(\w+)", query)
            name = body.get("operationName") or (named.group(1) if named else "anonymous")
            self._reply({"data": state.answer(name, query, body.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):
            run = self.path.split("/")[-2]
            for name, part in (body.get("files") or {}).items():
                if name == "wandb-summary.json":
                    state.summaries[run] = json.loads(part["content"][-1])
                elif name == "wandb-history.jsonl":
                    lines = state.history.setdefault(run, [])
                    lines[part.get("offset", 0) :] = map(json.loads, part["content"])
        self._reply({"limits": {}, "exitcode": None})

    def do_PUT(self):
        """An upload."""
        self.server_state.uploads[self.path] = self._body()
        self._reply(b"")

    def do_GET(self):
        """Nothing is fetched in these tests."""
        self._reply({})
