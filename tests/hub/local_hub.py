"""A stand-in of the Hugging Face hub: the part of its HTTP face that the real client uses to push and to download.

It keeps commits in memory. What it answers, and with which headers and error codes, is what the hub's client expects.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_of_a_test"
USER = "me"
LICENCES = ("apache-2.0", "mit", "other")


@dataclass
class Repository:
    """Commits of its branches, oldest first: each is (id, path → content)."""

    private: bool = False
    gated: bool = False
    branches: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((each for commits in self.branches.values() for each in commits if each[0] == revision), None)


class LocalHub(ThreadingHTTPServer):
    """The server.

    :ivar repositories: id → repository.
    :ivar requests: (method, path) of every request.
    :ivar fail: (method, pattern of the path) → status with which the request is answered.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail: dict[tuple[str, str], int] = {}
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def forget(self) -> None:
        for kept in (self.repositories, self.stored, self.requests, self.fail):
            kept.clear()

    def add(self, repo_id: str, files: dict[str, bytes], **kind: bool) -> Repository:
        """A repository as somebody else made it."""
        self.repositories[repo_id] = Repository(**kind)
        self.commit(repo_id, "main", files)
        return self.repositories[repo_id]

    def commit(self, repo_id: str, branch: str, files: dict[str, bytes]) -> str:
        commits = self.repositories[repo_id].branches.setdefault(branch, [])
        content = [*sorted(files.items()), len(commits)]
        name = hashlib.sha1(repr((repo_id, branch, content)).encode()).hexdigest()
        commits.append((name, files))
        return name

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        found = self.repositories[repo_id].at(revision)
        assert found is not None
        return found[1]


class _Answer(Exception):
    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.body = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()


def _refusal(status: int, code: str, message: str) -> _Answer:
    return _Answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)


class _Handler(BaseHTTPRequestHandler):
    server: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            for (method, pattern), status in self.server.fail.items():
                if method == self.command and re.search(pattern, path):
                    raise _refusal(status, "", "out of order")
            for method, pattern, serve in _ROUTES:
                match = re.fullmatch(pattern, path)
                if method == self.command and match:
                    serve(self, body, *match.groups())
            raise _Answer(404, {"error": f"the stand-in has no {self.command} {path}"})
        except _Answer as answer:
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    # Who may do what

    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _require_token(self) -> None:
        if not self._logged_in():
            raise _Answer(
                401, {"error": "Invalid username or password."}, X_Error_Message="Invalid username or password."
            )

    def _repository(self, repo_id: str) -> Repository:
        found = self.server.repositories.get(repo_id)
        if found is None or (found.private and not self._logged_in()):
            # As the hub: who is not logged in does not learn whether it exists.
            raise _refusal(404 if self._logged_in() else 401, "RepoNotFound", "Repository not found")
        return found

    def _commit(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self._repository(repo_id).at(revision)
        if found is None:
            raise _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    # What it can do

    def create(self, body: bytes) -> None:
        self._require_token()
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        if not repo_id.startswith(f"{USER}/"):
            raise _refusal(403, "", f"You don't have the rights to create a model under the namespace {repo_id}")
        answer = {"url": f"{self.server.address}/{repo_id}", "id": repo_id}
        if repo_id in self.server.repositories:
            raise _Answer(409, {"error": "You already created this model repo", **answer})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.add(repo_id, {".gitattributes": b"*.zip filter=lfs\n"}, private=private)
        raise _Answer(200, answer)

    def validate(self, body: bytes) -> None:
        problems = problems_of_card(json.loads(body)["content"])
        raise _Answer(400 if problems else 200, {"errors": [{"message": text} for text in problems], "warnings": []})

    def preupload(self, body: bytes, repo_id: str, revision: str) -> None:
        self._require_token()
        _, there = self._commit(repo_id, revision)
        files = [
            {
                "path": asked["path"],
                "uploadMode": "lfs" if b"\0" in base64.b64decode(asked["sample"]) else "regular",
                "shouldIgnore": False,
                "oid": _oid(there[asked["path"]]) if asked["path"] in there else None,
            }
            for asked in json.loads(body)["files"]
        ]
        raise _Answer(200, {"files": files})

    def batch(self, body: bytes, repo_id: str) -> None:
        self._require_token()
        self._repository(repo_id)
        objects = [
            {**asked, "actions": {"upload": {"href": f"{self.server.address}/lfs/{asked['oid']}", "header": {}}}}
            for asked in json.loads(body)["objects"]
        ]
        raise _Answer(200, {"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.stored[oid] = body
        raise _Answer(200)

    def commit(self, body: bytes, repo_id: str, revision: str) -> None:
        self._require_token()
        _, before = self._commit(repo_id, revision)
        after = dict(before)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                after[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                after[value["path"]] = self.server.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del after[value["path"]]
        name = self.server.commit(repo_id, revision, after)
        raise _Answer(
            200, {"success": True, "commitOid": name, "commitUrl": f"{self.server.address}/{repo_id}/commit/{name}"}
        )

    def tree(self, body: bytes, repo_id: str, revision: str) -> None:
        _, files = self._commit(repo_id, revision)
        found = [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in files.items()
        ]
        raise _Answer(200, found)

    def resolve(self, body: bytes, repo_id: str, revision: str, path: str) -> None:
        if self._repository(repo_id).gated:
            raise _refusal(403, "GatedRepo", "Access to this model is restricted")
        name, files = self._commit(repo_id, revision)
        if path not in files:
            raise _refusal(404, "EntryNotFound", "Entry not found")
        raise _Answer(200, files[path], ETag=f'"{_oid(files[path])}"', X_Repo_Commit=name)


_REPOSITORY, _REVISION = r"([^/]+/[^/]+)", r"(.+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"/api/models/{_REPOSITORY}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", f"/{_REPOSITORY}.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/lfs/([0-9a-f]+)", _Handler.store),
    ("POST", f"/api/models/{_REPOSITORY}/commit/{_REVISION}", _Handler.commit),
    ("GET", f"/api/models/{_REPOSITORY}/tree/{_REVISION}", _Handler.tree),
    *((method, f"/{_REPOSITORY}/resolve/([^/]+)/(.+)", _Handler.resolve) for method in ("HEAD", "GET")),
]


def _oid(content: bytes) -> str:
    """What the hub names a file by: LFS's SHA-256 where it is binary, else git's SHA-1."""
    if b"\0" in content[:512]:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def metadata_of(card: str) -> dict[str, Any]:
    """The YAML between the two lines of dashes at the head of a card."""
    found = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def problems_of_card(card: str) -> list[str]:
    """What the hub would refuse: a licence that it does not know, and a model-index without its required fields."""
    metadata = metadata_of(card)
    problems = []
    if metadata.get("license", "mit") not in LICENCES:
        problems.append(f'"license" must be one of [{", ".join(LICENCES)}]')
    for model in metadata.get("model-index", []):
        for result in model["results"]:
            missing = [key for key in ("task", "dataset", "metrics") if key not in result]
            missing += [f"dataset.{key}" for key in ("type", "name") if key not in result["dataset"]]
            missing += [f"metrics.{key}" for each in result["metrics"] for key in ("type", "value") if key not in each]
            problems += [f'"model-index[0].results[0].{name}" is required' for name in missing]
    return problems
