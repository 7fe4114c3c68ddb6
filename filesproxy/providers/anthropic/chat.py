"""The operation create_chat_completion on Anthropic's Messages API, files by `file_id` included.

https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

from ...calls import Answer, Call, Json, Send
from ...errors import BadRequest, InvalidAnswer, UpstreamAnswered
from ...operations import is_about
from ...wire import sse
from ..toolkit import need
from .answer import completion
from .content import media_type_of
from .request import file_ids, messages_request
from .stream import chunks

MAX_LOOKUPS = 20  # of media types, for one request


def create_chat_completion(call: Call, send: Send) -> Answer:
    """A chat completion, translated. Media types that the client did not name are looked up first."""
    assert call.json is not None
    known = _looked_up(call, send)
    body, ignored = messages_request(call.json, known)
    reply = send(call._replace(path="/messages", query={}, json=body))
    if call.expects != "events":
        return reply._replace(json=completion(reply.json, call.is_strict, call.now), ignored=ignored)
    if reply.body is None or not sse.is_stream(reply):
        raise InvalidAnswer("The provider did not answer with a stream of events.")
    with_usage = bool((call.json.get("stream_options") or {}).get("include_usage"))
    return reply._replace(body=chunks(reply.body, call.is_strict, with_usage, call.now), ignored=ignored)


def _looked_up(call: Call, send: Send) -> dict[str, str]:
    """File id → media type, for the files whose type the client did not name. Each is looked up once."""
    assert call.json is not None
    untyped = [(place, file) for place, file in file_ids(call.json) if not media_type_of(file, {})]
    places = {file["file_id"]: place for place, file in reversed(untyped)}
    if len(places) > MAX_LOOKUPS:
        raise BadRequest(f"More than {MAX_LOOKUPS} files have no mime_type.", param="messages")
    return {file_id: _media_type(file_id, places[file_id], call, send) for file_id in places}


def _media_type(file_id: str, place: str, call: Call, send: Send) -> str:
    plain: Json = {"json": None, "query": {}, "expects": "json", "is_generated": False}
    asked = call._replace(operation="retrieve_file", method="GET", path=f"/files/{file_id}", **plain)
    try:
        found = send(asked).json
    except UpstreamAnswered as error:
        error.param = place
        raise
    media_type: str = need(found, "mime_type", str)
    if not is_about(found.get("id", file_id), file_id):
        raise InvalidAnswer("The provider answered about another id.")
    return media_type
