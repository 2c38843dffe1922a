"""A real HTTP server on this machine that imitates Google's Files API and batches for Gemini.

Batches are running until the test says how they end.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.loopback_host import Given, Host, document
from tests.loopback_wire import USAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.loopback_host import Asked, Line

REPORTED_MODEL = "gemini-reported-1"


def says(text: str, *, finish: str = "STOP", message: str = "") -> Line:
    """What a request that was answered came to, after some thinking."""
    candidate = {
        "content": {"role": "model", "parts": [{"text": "Hm.", "thought": True}, {"text": text}]},
        "finishReason": finish,
        "index": 0,
    }
    usage = {
        "promptTokenCount": USAGE["prompt"],
        "cachedContentTokenCount": USAGE["cached"],
        "candidatesTokenCount": USAGE["completion"] - USAGE["reasoning"],
        "thoughtsTokenCount": USAGE["reasoning"],
        "totalTokenCount": USAGE["prompt"] + USAGE["completion"],
    }
    return {
        "response": {
            "candidates": [candidate | ({"finishMessage": message} if message else {})],
            "usageMetadata": usage,
            "modelVersion": REPORTED_MODEL,
        }
    }


def blocked(reason: str) -> Line:
    """What a request that the provider's rules forbid came to."""
    usage = {"promptTokenCount": USAGE["prompt"]}
    return {"response": {"promptFeedback": {"blockReason": reason}, "usageMetadata": usage}}


def errs(message: str, code: int = 3) -> Line:
    """What a request that could not be answered came to; codes are those of gRPC."""
    return {"error": {"code": code, "message": message}}


class GeminiServer(Host):
    """Files and batches beside `base_url`, which is that of the OpenAI-compatible endpoint."""

    key_header = "x-goog-api-key"
    root = "/v1beta/openai/"

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Line] = {}
        """By name, the oldest first."""
        self.page = 2
        """So many batches a page at most, whatever is asked for."""
        self.state = "BATCH_STATE_"
        """What states begin with."""
        self.uploads_at: str | None = None
        """Another host's address for uploads, if it names one."""

    def requests(self, name: str | None = None) -> list[Line]:
        """The lines that were handed in with a batch; with the last one unless told otherwise."""
        batch = self.batches[name or list(self.batches)[-1]]
        content = self.files[batch["metadata"]["inputConfig"]["fileName"]]
        return [json.loads(line) for line in content.decode().split("\n") if line]

    def end(
        self, result: Callable[[Line], Line | None], *more: bytes, inlined: bool = False
    ) -> None:
        """The last batch succeeded, with a result for each request, the last request's first, and
        `more` lines; `inlined`: in the batch itself."""
        batch = self.batches[list(self.batches)[-1]]
        given = [(one["key"], result(one)) for one in reversed(self.requests())]
        found = [(key, one) for key, one in given if one is not None]
        good = sum("response" in one for _, one in found)
        self._over(batch, "SUCCEEDED", good, len(found) - good)
        if inlined:
            lines = [{"metadata": {"key": key}} | one for key, one in found]
            batch["response"] = {"inlinedResponses": {"inlinedResponses": lines}}
            return
        content = [*(json.dumps({"key": key} | one).encode() for key, one in found), *more]
        batch["response"] = {"responsesFile": self._keep(b"\n".join(content) + b"\n")}

    def fail(self, state: str, message: str, code: int = 13) -> None:
        """The last batch ended without results."""
        batch = self.batches[list(self.batches)[-1]]
        self._over(batch, state, 0, 0)
        batch["error"] = {"code": code, "message": message}

    def answer(self, asked: Asked) -> Given | None:
        """Answer one request."""
        match asked.path.removeprefix("/").split("/"):
            case ["upload", "v1beta", "files"]:
                return self._upload(asked)
            case ["download", "v1beta", "files", name] if name.endswith(":download"):
                content = self.files.get(f"files/{name.removesuffix(':download')}")
                return None if content is None else Given(200, content, "application/octet-stream")
            case ["v1beta", "models", name] if name.endswith(":batchGenerateContent"):
                wanted = json.loads(asked.body)["batch"]
                model = name.removesuffix(":batchGenerateContent")
                return self.lost(document(self._make(model, wanted)))
            case ["v1beta", "models", name]:
                return document({"name": f"models/{name}", "outputTokenLimit": 65_536})
            case ["v1beta", "batches"]:
                return document(self._listed(asked))
            case ["v1beta", "batches", name] if f"batches/{name}" in self.batches:
                return document(self.batches[f"batches/{name}"])
            case _:
                return None

    def _upload(self, asked: Asked) -> Given | None:
        address = self.uploads_at or f"{self.origin}/upload/v1beta/files?upload_id=1"
        match asked.headers["X-Goog-Upload-Command"]:
            case "start" if asked.headers["X-Goog-Upload-Protocol"] == "resumable":
                return Given(200, headers={"X-Goog-Upload-URL": address})
            case "upload, finalize" if asked.query == {"upload_id": "1"}:
                return document({"file": {"name": self._keep(asked.body), "state": "ACTIVE"}})
            case _:
                return None

    def _listed(self, asked: Asked) -> Line:
        if "pageSize" not in asked.query:
            return {}
        begin = int(asked.query.get("pageToken", "0"))
        names = list(self.batches)
        shown = names[begin : begin + self.page]
        more = {"nextPageToken": str(begin + self.page)} if names[begin + self.page :] else {}
        return {"operations": [self.batches[name] for name in shown]} | more

    def _make(self, model: str, wanted: Line) -> Line:
        name = f"batches/{len(self.batches) + 1}"
        metadata = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "name": name,
            "model": f"models/{model}",
            "createTime": "2033-05-18T03:33:20.123456789Z",
            "state": f"{self.state}PENDING",
            **wanted,
        }
        self.batches[name] = made = {"name": name, "metadata": metadata}
        count = len(self.requests(name))
        metadata["batchStats"] = {"requestCount": str(count), "pendingRequestCount": str(count)}
        return made

    def _over(self, batch: Line, state: str, good: int, bad: int) -> None:
        metadata = batch["metadata"]
        metadata |= {"state": self.state + state, "endTime": "2033-05-18T03:34:50.123456789Z"}
        stats = {"successfulRequestCount": good, "failedRequestCount": bad}
        metadata["batchStats"] = {"requestCount": metadata["batchStats"]["requestCount"]} | {
            name: str(value) for name, value in stats.items() if value
        }
        batch["done"] = True

    def _keep(self, content: bytes) -> str:
        name = f"files/f{len(self.files) + 1}"
        self.files[name] = content
        return name
