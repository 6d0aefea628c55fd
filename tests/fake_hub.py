"""A Hugging Face hub on this machine: the endpoints by which huggingface_hub makes, fills, lists and reads models."""

import base64
import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository; a branch is the commit that it ends in, a commit the files that it has."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)

    def add(self, branch: str, files: Files) -> str:
        sha = hashlib.sha1(repr((sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def commit(self, revision: str) -> str | None:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return sha if sha in self.commits else None


@dataclass
class FakeHub:
    """A hub that is served until `close`.

    Attributes:
        readers: Tokens that may read what is private.
        writers: Tokens that may write, to any user.
        fault: Status of every answer, if not 0.
        repos: Repositories by id.
        asked: Method and path of each request.
    """

    readers: set[str] = field(default_factory=lambda: {"hf_reader", "hf_writer"})
    writers: set[str] = field(default_factory=lambda: {"hf_writer"})
    fault: int = 0
    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args) -> None:
                pass

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                path = unquote(urlsplit(self.path).path).strip("/")
                hub.asked.append((self.command, path))
                status, headers, content = hub.answer(self.command, path, body, token)
                if not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_HEAD = do

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, path: str, body: bytes, token: str):
        """Status, headers and content of an answer, in the words of the real hub's errors."""
        if self.fault:
            return self.fault, {}, {"error": "out of order"}
        match path.split("/"):
            case ["api", "validate-yaml"]:
                return 200, {}, {"errors": [], "warnings": []}
            case ["api", "repos", "create"]:
                return self._create(json.loads(body), token)
            case ["api", "models", user, name, *rest]:
                repo, refusal = self._opened(f"{user}/{name}", token)
                return refusal or self._api(f"{user}/{name}", repo, method, rest, body, token)
            case [user, name, "resolve", revision, file]:
                repo, refusal = self._opened(f"{user}/{name}", token)
                return refusal or self._file(repo, revision, file)
        return 404, {}, {"error": f"no endpoint {method} {path}"}

    def _create(self, content: dict, token: str):
        if token not in self.writers:
            return (403 if token else 401), {}, {"error": "this token may not write"}
        name = f"{content['organization']}/{content['name']}"
        if name in self.repos:
            return 409, {}, {"error": "exists", "url": f"{self.url}/{name}"}
        self.repos[name] = Repo(private=content.get("visibility") == "private" or bool(content.get("private")))
        self.repos[name].add("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return 200, {}, {"url": f"{self.url}/{name}", "name": name}

    def _opened(self, name: str, token: str):
        repo = self.repos.get(name)
        if token and token not in self.readers:
            return repo, (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, {"error": "token"})
        if repo is None or (repo.private and token not in self.readers):
            return repo, ((404 if token else 401), {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"})
        if repo.gated:
            return repo, (403, {"X-Error-Code": "GatedRepo"}, {"error": "ask for access"})
        return repo, None

    def _api(self, name: str, repo: Repo, method: str, rest: list[str], body: bytes, token: str):
        what, revision = (rest or ["revision"])[0], (rest[1:] or ["main"])[0]
        if what == "refs":
            refs = {"branches": repo.branches, "tags": repo.tags, "converts": {}}
            listed = {
                kind: [{"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": sha} for ref, sha in each.items()]
                for kind, each in refs.items()
            }
            return 200, {}, listed
        if method == "POST" and token not in self.writers:
            return 403, {}, {"error": "this token may not write"}
        if what == "branch":
            if revision in repo.branches:
                return 409, {}, {"error": "exists"}
            repo.branches[revision] = repo.branches["main"]
            return 200, {}, {}
        if (sha := repo.commit(revision)) is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, {"error": f"Invalid rev id: {revision}"}
        files = repo.commits[sha]
        if what == "revision":
            siblings = [{"rfilename": file} for file in files]
            return 200, {}, {"id": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []}
        if what == "tree":
            entries = [
                {"type": "file", "path": f, "size": len(content), "oid": oid(content)} for f, content in files.items()
            ]
            return 200, {}, entries
        if what == "preupload":
            asked = [entry["path"] for entry in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]
            return 200, {}, {"files": modes}
        if what == "commit":
            sha = repo.add(revision, changed(files, body))
            return 200, {}, {"commitUrl": f"{self.url}/{name}/commit/{sha}", "commitOid": sha, "success": True}
        return 404, {}, {"error": f"no endpoint {what}"}

    def _file(self, repo: Repo, revision: str, file: str):
        sha = repo.commit(revision)
        if sha is None or file not in repo.commits[sha]:
            return 404, {"X-Error-Code": "EntryNotFound" if sha else "RevisionNotFound"}, b""
        content = repo.commits[sha][file]
        return 200, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": sha}, content


def oid(content: bytes) -> str:
    """The name of content in git."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def changed(files: Files, body: bytes) -> Files:
    """The files after a commit."""
    files = dict(files)
    for line in body.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "deletedFile":
            del files[value["path"]]
    return files


@contextmanager
def serving(monkeypatch, cache):
    """A hub that huggingface_hub speaks to, with an empty cache and no token."""
    from huggingface_hub import constants

    hub = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield hub
    finally:
        hub.close()
