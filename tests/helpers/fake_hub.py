"""A Hugging Face Hub on this machine, for the real client to talk to."""

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse

import pytest
from huggingface_hub import constants

TOKEN = "hf_test"


class FakeHub:
    """Repositories in memory: ``repos[name]`` has ``private`` and commits.

    ``heads`` maps a branch to its commit and ``commits`` a commit to its files
    (bytes by path). ``asked`` has the method and path of each request. The
    size that is declared for a file can be set in ``declared``.
    """

    def __init__(self):
        self.repos, self.asked, self.declared = {}, [], {}

    def add(self, name, files, private=False):
        """Adds a repository, or a commit to its main branch."""
        repo = self.repos.setdefault(
            name,
            {"name": name, "private": private, "heads": {}, "commits": {}},
        )
        return self.commit(repo, "main", files)

    @staticmethod
    def commit(repo, branch, files):
        """Adds a commit to a branch; its name."""
        number = f"{len(repo['commits'])} {sorted(files)}"
        sha = hashlib.sha1(number.encode()).hexdigest()
        repo["commits"][sha] = dict(files)
        repo["heads"][branch] = sha
        return sha

    def answer(self, method, path, body, token):
        """Status, content and headers of an answer."""
        parts = [urllib.parse.unquote(part) for part in path.split("/")[1:]]
        if parts[0] != "api":
            return self.resolve(parts)
        if parts[1] == "validate-yaml":
            return 200, {}, {}
        if parts[1:] == ["repos", "create"]:
            return self.create(json.loads(body), token)
        name, rest = "/".join(parts[2:4]), parts[4:]
        repo = self.repos.get(name)
        if repo is None or (repo["private"] and token != TOKEN):
            return 401, {}, {"X-Error-Code": "RepoNotFound"}
        if method == "POST":
            if token != TOKEN:
                return 403, {}, {}
            return self.change(repo, rest, body)
        what, revision = (rest + ["revision", "main"])[:2]
        sha = repo["heads"].get(revision, revision)
        if sha not in repo["commits"]:
            return 404, {}, {"X-Error-Code": "RevisionNotFound"}
        sizes = {
            path: self.declared.get(path, len(content))
            for path, content in repo["commits"][sha].items()
        }
        if what == "tree":
            entries = [
                {"type": "file", "path": path, "size": size, "oid": path}
                for path, size in sizes.items()
            ]
            return 200, entries, {}
        siblings = [{"rfilename": p, "size": s} for p, s in sizes.items()]
        about = {"id": name, "sha": sha, "private": repo["private"]}
        return 200, about | {"siblings": siblings}, {}

    def create(self, wanted, token):
        """Creates a repository."""
        if token != TOKEN:
            return 401, {}, {}
        name = f"{wanted['organization']}/{wanted['name']}"
        private = wanted.get("visibility") == "private" or bool(
            wanted.get("private")
        )
        there = name in self.repos
        if not there:
            self.add(name, {".gitattributes": b""}, private)
        return 409 if there else 200, {"url": f"{self.url}/{name}"}, {}

    def change(self, repo, rest, body):
        """Creates a branch, says how files are sent, or commits them."""
        what, branch = rest
        if what == "branch":
            there = branch in repo["heads"]
            repo["heads"].setdefault(branch, repo["heads"]["main"])
            return 409 if there else 200, {}, {}
        if branch not in repo["heads"]:
            return 404, {}, {"X-Error-Code": "RevisionNotFound"}
        if what == "preupload":
            paths = [one["path"] for one in json.loads(body)["files"]]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            return 200, {"files": [{"path": p} | plain for p in paths]}, {}
        files = dict(repo["commits"][repo["heads"][branch]])
        for line in body.splitlines():
            done = json.loads(line)
            value = done["value"]
            if done["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif done["key"] == "deletedFile":
                del files[value["path"]]
            else:
                repo["message"] = value["summary"]
        sha = self.commit(repo, branch, files)
        url = f"{self.url}/{repo['name']}/commit/{sha}"
        return 200, {"commitUrl": url, "commitOid": sha}, {}

    def resolve(self, parts):
        """The content of a file."""
        repo = self.repos.get("/".join(parts[:2]), {"commits": {}})
        sha, path = parts[3], "/".join(parts[4:])
        files = repo["commits"].get(sha, {})
        if path not in files:
            return 404, {}, {"X-Error-Code": "EntryNotFound"}
        tag = hashlib.sha1(files[path]).hexdigest()
        return 200, files[path], {"X-Repo-Commit": sha, "ETag": f'"{tag}"'}


def handler(hub):
    """The class that answers the requests to a hub."""

    class Handler(http.server.BaseHTTPRequestHandler):
        """Passes requests on to the hub."""

        def respond(self):
            """Answers one request."""
            path = urllib.parse.urlsplit(self.path).path
            hub.asked.append((self.command, path))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization", "").removeprefix(
                "Bearer "
            )
            status, content, headers = hub.answer(
                self.command, path, body, token
            )
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = respond

        def log_message(self, *arguments):
            """Says nothing."""

    return Handler


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub; the client has its address, and a cache of its own."""
    hub = FakeHub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.cache = tmp_path / "hub_cache"
    settings = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": (
            hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        ),
        "HF_HUB_CACHE": str(hub.cache),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()
