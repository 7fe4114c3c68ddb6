"""Kept files in chats and Responses: found for their owner, put in as the provider takes them, or refused unsent."""

from __future__ import annotations

import base64
import json

import pytest
from configurations import hashed
from documents import text_of
from fakes import FakeBody, form, form_type

from filesproxy.calls import Answer, Content
from filesproxy.gateway.inlining import MAX_NAME, MAX_PARTS, MAX_TEXT_BYTES
from filesproxy.providers import PROVIDERS
from filesproxy.wire.multipart import encode

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3
JPEG, GIF, WEBP = b"\xff\xd8\xff\xe0" + b"j" * 90, b"GIF89a" + b"g" * 90, b"RIFF\x24\0\0\0WEBPVP8 " + b"w" * 90
PDF, WAV, MP3 = b"%PDF-1.7\n" + b"p" * 90, b"RIFF\x24\0\0\0WAVEfmt " + b"a" * 90, b"ID3\x04\0\0" + b"m" * 90
MP4 = b"\0\0\0\x20ftypisom\0\0\2\0" + b"v" * 90
TEXT = 'Notes of the kitchen.\nThe secret word is "marmalade". Grüße!\n'
UNKNOWN = "file-0660d3fd1a774004570ae91458c94f624c975f"
VLLM = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "credential": "none", "files": "local"}
ANSWERS = {
    "openai": {"id": "chatcmpl-1", "object": "chat.completion", "choices": []},
    "anthropic": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
                  "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}},
}  # fmt: skip


class Models:
    """A transport that answers every chat, and remembers what it was sent: the URL, and the JSON as it left."""

    def __init__(self):
        self.sent, self.urls, self.types, self.before = [], [], [], lambda: None

    def __call__(self, call, target):
        self.before()
        self.urls.append(call.url)
        if call.content:
            text = b"".join(call.content.chunks)
            assert len(text) == call.content.length
            self.types.append(call.content.media_type)
            self.sent.append(json.loads(text))
        else:
            self.sent.append(call.json)
        kind = "anthropic" if call.path == "/messages" else "openai"
        return Answer(200, {"content-type": "application/json"}, body=FakeBody([json.dumps(ANSWERS[kind]).encode()]))


@pytest.fixture
def models():
    return Models()


@pytest.fixture
def gateway(make_client, models, tmp_path):
    """A function that makes a client of a gateway with a store and, unless told otherwise, `@vllm` beside it."""

    def make(sections=None, **settings):
        table = {"provider:local": {"folder": str(tmp_path / "files")}, "provider:vllm": VLLM, **(sections or {})}
        settings = {"default_files": "local", "default_chat": "vllm", **settings}
        settings.setdefault("transports", {"http": models, "https": models})
        return make_client(table, **settings)

    return make


def upload(client, content, name="notes.txt", media_type="application/octet-stream", **headers):
    content = content.encode() if isinstance(content, str) else content
    body = form(("purpose", "assistants"), ("file", name, media_type, content))
    return client.post("/v1/files", body, {"content-type": form_type(), **headers}).json["id"]


def file(file_id, **more):
    return {"type": "file", "file": {"file_id": file_id, **more}}


def chat(*parts, model="m"):
    return {"model": model, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, *parts]}]}


def response(*parts, model="m"):
    return {"model": model, "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}, *parts]}]}


def ask(client, body, status=200, **headers):
    path = "/v1/responses" if "input" in body else "/v1/chat/completions"
    return client.post_json(path, body, headers=headers, status=status)


def refused(client, models, body, status, **headers):
    """The error of a request that was refused before anything was sent."""
    error = ask(client, body, status, **headers).json["error"]
    assert models.sent == []
    return error


def parts_of(models):
    body = models.sent[-1]
    items = body.get("messages") or body["input"]
    return items[0]["content"][1:]


def data_url(media_type, content):
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


WITH_NAME = f"[file: notes.txt]\n{TEXT}\n[end of notes.txt]"


def test_chat_that_names_a_kept_file_is_sent_with_its_text(gateway, models):
    client = gateway()
    ask(client, chat(file(upload(client, TEXT))))
    assert parts_of(models) == [{"type": "text", "text": WITH_NAME}]
    assert models.urls == ["http://127.0.0.1:9/v1/chat/completions"] and models.types == ["application/json"]


def test_text_in_a_request_stands_between_the_lines_that_the_page_shows(gateway, models):
    client = gateway()
    ask(client, chat(file(upload(client, "Notes of the kitchen."))))
    assert f"```text\n{parts_of(models)[0]['text']}\n```" in text_of("docs/kept-files.md")


def test_response_that_names_a_kept_file_is_sent_with_its_text(gateway, models):
    client = gateway()
    ask(client, response({"type": "input_file", "file_id": upload(client, TEXT)}))
    assert parts_of(models) == [{"type": "input_text", "text": WITH_NAME}]


@pytest.mark.parametrize("route", ["/v1/responses/input_tokens", "/v1/responses/compact"])
def test_other_requests_of_responses_are_completed_too(route, gateway, models):
    client = gateway()
    client.post_json(route, response({"type": "input_file", "file_id": upload(client, TEXT)}))
    assert parts_of(models) == [{"type": "input_text", "text": WITH_NAME}]


IMAGES = [
    pytest.param(content, media_type, id=media_type)
    for content, media_type in ((PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp"))
]


@pytest.mark.parametrize("content,media_type", IMAGES)
def test_images_become_data_urls_however_a_part_names_them(content, media_type, gateway, models):
    client = gateway()
    kept = upload(client, content, "a.bin")
    url = data_url(media_type, content)
    named = [{"file_id": kept}, {"url": kept}]
    ask(client, chat(file(kept), *({"type": "image_url", "image_url": each} for each in named)))
    assert parts_of(models) == [{"type": "image_url", "image_url": {"url": url}}] * 3
    ask(client, response({"type": "input_file", "file_id": kept}, {"type": "input_image", "file_id": kept},
                         {"type": "input_image", "image_url": kept, "detail": "low"}))  # fmt: skip
    assert parts_of(models) == [
        {"type": "input_image", "image_url": url, "detail": detail} for detail in ("auto", "auto", "low")
    ]


def test_openai_takes_sounds_and_pdf(gateway, models):
    openai = {"credential": "sk-saved", "files": "local"}
    client = gateway({"provider:openai": openai}, open_access=True)
    kept = {name: upload(client, content, name) for name, content in (("a.wav", WAV), ("a.mp3", MP3), ("a.pdf", PDF))}
    ask(client, chat(*(file(each) for each in kept.values()), model="@openai/m"))
    assert parts_of(models) == [
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(WAV).decode(), "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(MP3).decode(), "format": "mp3"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data_url("application/pdf", PDF)}},
    ]
    ask(client, response({"type": "input_file", "file_id": kept["a.pdf"], "filename": "b.pdf"}, model="@openai/m"))
    assert parts_of(models) == [
        {"type": "input_file", "filename": "b.pdf", "file_data": data_url("application/pdf", PDF)}
    ]


def test_video_goes_where_the_operator_says_that_it_is_taken(gateway, models):
    client = gateway({"provider:vllm": {**VLLM, "file_parts": "text video"}})
    ask(client, chat(file(upload(client, MP4, "a.mp4"))))
    assert parts_of(models) == [{"type": "video_url", "video_url": {"url": data_url("video/mp4", MP4)}}]


@pytest.fixture
def with_cloud(gateway, tmp_path):
    """A client of a gateway whose store lets its files go to OpenAI and Anthropic as well."""

    def make(inline_to="openai claude", transport=None, **more):
        store = {"folder": str(tmp_path / "files"), **({"inline_to": inline_to} if inline_to else {})}
        claude, openai = {"kind": "anthropic", "credential": "sk-saved-ant"}, {"credential": "sk-saved-oai"}
        sections = {"provider:local": store, "provider:claude": claude, "provider:openai": openai, **more}
        transports = {"transports": {"https": transport}} if transport else {}
        return gateway(sections, open_access=True, **transports)

    return make


def test_same_id_works_with_a_model_on_the_host_with_openai_and_with_claude(with_cloud, models):
    client = with_cloud()
    kept = upload(client, TEXT)
    for model in ("m", "@openai/m", "@claude/m"):
        ask(client, chat(file(kept), model=model))
    assert [url.partition("//")[2].partition("/")[0] for url in models.urls] == [
        "127.0.0.1:9", "api.openai.com", "api.anthropic.com",
    ]  # fmt: skip
    document = {"type": "text", "media_type": "text/plain", "data": TEXT}
    assert [sent["messages"][0]["content"][1] for sent in models.sent] == [
        {"type": "text", "text": WITH_NAME},
        {"type": "text", "text": WITH_NAME},
        {"type": "document", "source": document, "title": "notes.txt"},
    ]


def test_claude_reads_files_in_instructions_as_text_and_in_results_of_tools_as_documents(with_cloud, models):
    client = with_cloud()
    part = file(upload(client, TEXT))
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": [part]},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [part]},
    ]
    ask(client, {"model": "@claude/m", "messages": messages})
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": TEXT}}
    assert models.sent[0]["system"] == [{"type": "text", "text": WITH_NAME}]
    [result] = models.sent[0]["messages"][-1]["content"]
    assert result["content"] == [{**document, "title": "notes.txt"}]


@pytest.mark.parametrize("content,media_type", [*IMAGES, pytest.param(PDF, "application/pdf", id="pdf")])
def test_anthropic_gets_the_bytes_of_images_and_pdf_as_base64(content, media_type, with_cloud, models):
    client = with_cloud()
    mark = {"cache_control": {"type": "ephemeral"}}
    ask(client, chat({**file(upload(client, content, "a.bin")), **mark}, model="@claude/m"))
    block = models.sent[0]["messages"][0]["content"][1]
    source = {"type": "base64", "media_type": media_type, "data": base64.b64encode(content).decode()}
    title = {"title": "a.bin"} if media_type == "application/pdf" else {}
    assert block == {"type": "document" if title else "image", "source": source, **title, **mark}


def test_text_in_utf_16_and_with_a_byte_order_mark_arrives_as_plain_text(gateway, models):
    client = gateway()
    for content in (b"\xef\xbb\xbf" + TEXT.encode(), b"\xff\xfe" + TEXT.encode("utf-16-le")):
        ask(client, chat(file(upload(client, content))))
        assert parts_of(models) == [{"type": "text", "text": WITH_NAME}]


def test_type_in_the_request_decides_where_the_bytes_do_not(gateway, models):
    client = gateway()
    kept = upload(client, "a,b\n", "sales", "application/x-private")
    assert refused(client, models, chat(file(kept)), 400)["code"] == "unsupported_file"
    assert (
        "leave mime_type out" in refused(client, models, chat(file(kept, mime_type="application/pdf")), 400)["message"]
    )
    ask(client, chat(file(kept, mime_type="text/csv", filename="sales.csv")))
    assert parts_of(models)[0]["text"] == "[file: sales.csv]\na,b\n\n[end of sales.csv]"


def test_name_in_a_text_has_no_line_ends_and_a_limit(gateway, models):
    client = gateway()
    kept = upload(client, "a", "n" * 300)
    ask(client, chat(file(kept, filename="a\n\u2028b\x00" + "c" * 300)))
    assert parts_of(models)[0]["text"].startswith("[file: ab" + "c" * (MAX_NAME - 2) + "]\na\n")
    ask(client, chat(file(kept)))
    assert parts_of(models)[0]["text"].startswith("[file: " + "n" * MAX_NAME + "]\n")


def test_file_operations_under_a_provider_whose_files_are_in_the_store_are_the_stores(gateway, models):
    client = gateway(default_files="none", default_chat="none")
    named = {"x-portkey-provider": "@vllm"}
    kept = upload(client, TEXT, **named)
    assert [each["id"] for each in client.get("/v1/files", headers=named).json["data"]] == [kept]
    assert client.get(f"/v1/files/{kept}", headers=named).json["filename"] == "notes.txt"
    assert client.get(f"/v1/files/{kept}/content", headers=named).body == TEXT.encode()
    ask(client, chat(file(kept)), **named)
    assert client.delete(f"/v1/files/{kept}", headers=named).json["deleted"] is True
    assert len(models.sent) == 1
    error = ask(client, chat(file(kept)), 404, **named).json["error"]
    assert (error["code"], error["param"]) == ("not_found", "messages[0].content[1].file.file_id")


def test_models_own_slug_wins_over_a_header(with_cloud, models):
    client = with_cloud()
    ask(client, chat(file(upload(client, TEXT)), model="@claude/m"), **{"x-portkey-provider": "@vllm"})
    assert models.urls == ["https://api.anthropic.com/v1/messages"]


def test_id_that_is_not_in_the_store_is_our_404_and_is_never_sent(with_cloud, models):
    client = with_cloud()
    for model in ("m", "@openai/m", "@claude/m"):
        for body, place in (
            (chat(file(UNKNOWN), model=model), "messages[0].content[1].file.file_id"),
            (chat({"type": "image_url", "image_url": {"url": UNKNOWN}}, model=model),
             "messages[0].content[1].image_url.url"),
        ):  # fmt: skip
            error = refused(client, models, body, 404)
            assert (error["code"], error["param"]) == ("not_found", place) and UNKNOWN in error["message"]


@pytest.mark.parametrize("file_id", ["file-abc123", "assistant-1", "x", UNKNOWN.upper()])
def test_ids_of_other_forms_are_a_404_where_the_provider_has_no_files(file_id, gateway, models):
    error = refused(gateway(), models, chat(file(file_id)), 404)
    assert (error["code"], error["param"]) == ("not_found", "messages[0].content[1].file.file_id")
    body = response({"type": "input_file", "file_id": file_id})
    assert refused(gateway(), models, body, 404)["param"] == "input[0].content[1].file_id"


def test_ids_of_other_forms_go_on_to_a_provider_that_has_files(with_cloud, models):
    client = with_cloud()
    ask(client, chat(file("file-abc123"), file(upload(client, TEXT)), model="@openai/m"))
    assert parts_of(models) == [file("file-abc123"), {"type": "text", "text": WITH_NAME}]


def test_host_of_which_nothing_is_known_gets_ids_as_before(gateway, models):
    """It may be another gateway, whose kept ids have the same form."""
    unknown = {name: text for name, text in VLLM.items() if name != "files"}
    client = gateway({"provider:central": unknown}, default_chat="central")
    body = chat(file(upload(client, TEXT)), file(UNKNOWN), file("file-abc"))
    ask(client, body)
    assert models.sent == [body] and models.types == []
    client.get(f"/v1/batches/{UNKNOWN}", headers={"x-portkey-provider": "@central"}, status=502)  # it went
    assert models.urls[-1].endswith(UNKNOWN)


def test_host_of_which_nothing_is_known_gets_kept_files_once_the_store_names_it(gateway, models, tmp_path):
    unknown = {name: text for name, text in VLLM.items() if name != "files"}
    store = {"folder": str(tmp_path / "files"), "inline_to": "central"}
    client = gateway({"provider:local": store, "provider:central": unknown}, default_chat="central")
    ask(client, chat(file(upload(client, TEXT)), file("file-abc")))
    assert parts_of(models) == [{"type": "text", "text": WITH_NAME}, file("file-abc")]
    models.sent.clear()
    assert refused(client, models, chat(file(UNKNOWN)), 404)["code"] == "not_found"


def test_provider_without_files_takes_no_id(gateway, models):
    client = gateway({"provider:vllm": {**VLLM, "files": "none"}})
    for file_id in ("file-abc", upload(client, TEXT)):
        error = refused(client, models, chat(file(file_id)), 400)
        assert (error["code"], error["param"]) == ("unsupported_file", "messages[0].content[1].file.file_id")


def test_kept_file_never_leaves_for_where_the_store_does_not_allow_it(with_cloud, models):
    client = with_cloud(inline_to="claude")
    error = refused(client, models, chat(file(upload(client, TEXT)), model="@openai/m"), 403)
    assert error["param"] == "messages[0].content[1].file.file_id" and "inline_to" in error["message"]
    client = with_cloud(inline_to="")
    assert "inline_to" in refused(client, models, chat(file(upload(client, TEXT)), model="@claude/m"), 403)["message"]


UNSUPPORTED = {
    "pdf": (PDF, "a.pdf", "pdftotext"),
    "sound": (WAV, "a.wav", "transcript"),
    "video": (MP4, "a.mp4", "images"),
    "word": (b"PK\x03\x04" + b"x" * 90, "a.docx", "convert it to a kind that the provider takes: text image"),
    "bytes": (b"\x00\x01\x02", "a.bin", "save it as UTF-8"),
    "latin_1": ("Grüße".encode("latin-1"), "a.txt", "UTF-8"),
    "nul": (b"a\x00b", "a.txt", "UTF-8"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_a_provider_does_not_take_is_a_400_that_names_part_file_and_what_helps(name, gateway, models):
    content, filename, helps = UNSUPPORTED[name]
    client = gateway()
    kept = upload(client, content, filename)
    for body, place in (
        (chat(file(kept)), "messages[0].content[1].file.file_id"),
        (response({"type": "input_file", "file_id": kept}), "input[0].content[1].file_id"),
    ):
        error = refused(client, models, body, 400)
        assert (error["code"], error["param"]) == ("unsupported_file", place)
        assert place in error["message"] and filename in error["message"] and helps in error["message"]


def test_sounds_and_videos_have_no_part_in_responses(gateway, models):
    client = gateway({"provider:vllm": {**VLLM, "file_parts": "text audio video"}})
    for content in (WAV, MP4):
        body = response({"type": "input_file", "file_id": upload(client, content, "a.bin")})
        error = refused(client, models, body, 400)
        assert "Responses have no part" in error["message"] and "What helps: name it in a chat" in error["message"]


@pytest.mark.parametrize("content", [TEXT.encode(), PDF], ids=["text", "pdf"])
def test_part_that_asks_for_an_image_gets_no_other_file(content, with_cloud, models):
    client = with_cloud()
    kept = upload(client, content)
    for body in (
        chat({"type": "image_url", "image_url": {"file_id": kept}}, model="@openai/m"),
        response({"type": "input_image", "file_id": kept}, model="@openai/m"),
    ):
        error = refused(client, models, body, 400)
        assert "only hold an image" in error["message"] and "part of type file" in error["message"]


ELSEWHERE = {
    "batch": ("/v1/batches", {"input_file_id": UNKNOWN}, "input_file_id"),
    "job": ("/v1/fine_tuning/jobs", {"model": "m", "training_file": "file-1", "validation_file": UNKNOWN},
            "validation_file"),
    "upload": ("/v1/uploads/upload_1/complete", {"part_ids": ["part_1", UNKNOWN]}, "part_ids[1]"),
    "store": ("/v1/vector_stores", {"file_ids": [UNKNOWN]}, "file_ids[0]"),
    "container": ("/v1/containers/c/files", {"file_id": UNKNOWN}, "file_id"),
    "code": ("/v1/responses", {"input": "hi", "tools": [{"type": "code_interpreter",
             "container": {"type": "auto", "file_ids": [UNKNOWN]}}]}, "tools[0].container.file_ids[0]"),
    "files_part_in_a_chat": ("/v1/chat/completions", chat({"type": "input_file", "file_id": UNKNOWN}),
                             "messages[0].content[1].file_id"),
    "image_in_a_chat": ("/v1/chat/completions", chat({"type": "image", "file": {"file_id": UNKNOWN}}),
                        "messages[0].content[1].file.file_id"),
    "chats_part_in_responses": ("/v1/responses", response({"type": "file", "file": {"file_id": UNKNOWN}}),
                                "input[0].content[1].file.file_id"),
    "chats_image_in_responses": ("/v1/responses", response({"type": "input_image", "image_url": {"url": UNKNOWN}}),
                                 "input[0].content[1].image_url.url"),
    "odd_part": ("/v1/responses", {"input": [{"content": [{"type": "input_audio", "file_id": UNKNOWN}]}]},
                 "input[0].content[0].file_id"),
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_kept_id_in_any_other_request_is_a_400_that_says_so(name, with_cloud, models):
    path, body, place = ELSEWHERE[name]
    client = with_cloud()
    for provider in ("@openai", "@vllm"):
        error = client.post_json(path, body, headers={"x-portkey-provider": provider}, status=400).json["error"]
        assert (error["code"], error["param"]) == ("kept_file_here", place) and models.sent == []
        assert place in error["message"]


@pytest.mark.parametrize("place", [0, 1])
def test_form_with_a_file_and_a_kept_id_before_or_after_it_is_never_complete(place, with_cloud, models):
    parts = [("file", "a", "", b"a")]
    parts.insert(place, ("file_id", UNKNOWN))

    def reads(call, target):
        return b"".join(encode(call.upload, "boundary"))

    client = with_cloud(transport=reads)
    headers = {"content-type": form_type(), "x-portkey-provider": "@openai"}
    error = client.post("/v1/containers/c/files", form(*parts), headers, status=400).json["error"]
    assert (error["code"], error["param"]) == ("kept_file_here", "file_id")


def test_kept_id_in_a_query_or_a_header_is_found_whatever_the_json_holds(with_cloud, models):
    """The look at the JSON, which most requests are spared, is not the only one."""
    client = with_cloud(**{"provider:azure": {"kind": "azure-openai", "resource": "mine", "credential": "sk-saved"}})
    headers = {"x-portkey-provider": "@azure"}
    for path, more in (
        (f"/v1/chat/completions?file_id={UNKNOWN}", {}),
        (f"/v1/chat/completions?include[]=a&include[]={UNKNOWN}", {}),
        ("/v1/chat/completions", {"x-portkey-azure-deployment-id": UNKNOWN}),
        ("/v1/embeddings", {"x-portkey-azure-deployment-id": UNKNOWN}),
    ):
        error = client.post_json(path, {**chat(), "input": "x"}, headers={**headers, **more}, status=400).json["error"]
        assert (error["code"], models.sent) == ("kept_file_here", [])


def test_file_that_is_stored_under_a_kept_id_can_be_used(with_cloud, models):
    client = with_cloud()
    ask(client, chat(file(upload(client, PDF, UNKNOWN), filename=UNKNOWN), model="@openai/m"))
    assert parts_of(models)[0]["file"]["filename"] == UNKNOWN


@pytest.mark.parametrize("path", ["/v1/files?after={}", "/v1/batches?after={}", "/v1/models/{}",
                                  "/v1/files?purpose=a&after={}&limit=5"])  # fmt: skip
def test_kept_id_in_a_query_or_as_a_model_goes_nowhere(path, with_cloud, models):
    answer = with_cloud().get(path.format(UNKNOWN), headers={"x-portkey-provider": "@openai"}, status="4*")
    assert (answer.json["error"]["code"], models.sent) in [("kept_file_here", []), ("not_found", [])]


def test_escaped_id_is_found_too(with_cloud, models):
    body = json.dumps({"input_file_id": UNKNOWN}).replace("file-", "\\u0066ile-").encode()
    headers = {"content-type": "application/json", "x-portkey-provider": "@openai"}
    answer = with_cloud().post("/v1/batches", body, headers, status=400)
    assert (answer.json["error"]["code"], models.sent) == ("kept_file_here", [])


def test_form_that_names_a_kept_file_is_refused_like_json(with_cloud, models):
    body = form(("file_id", UNKNOWN))
    headers = {"content-type": form_type(), "x-portkey-provider": "@openai"}
    error = with_cloud().post("/v1/containers/c/files", body, headers, status=400).json["error"]
    assert (error["code"], error["param"], models.sent) == ("kept_file_here", "file_id", [])


@pytest.mark.parametrize("path", ["/v1/files/{}", "/v1/files/{}/content", "/v1/batches/{}",
                                  "/v1/vector_stores/vs/files/{}", "/v1/vector_stores/{}/files/x"])  # fmt: skip
def test_kept_id_in_a_path_is_our_404_at_a_provider(path, with_cloud, models):
    client = with_cloud()
    answer = client.get(path.format(upload(client, TEXT)), headers={"x-portkey-provider": "@openai"}, status=404)
    assert (answer.json["error"]["code"], models.sent) == ("not_found", [])


def test_operation_that_a_provider_does_not_have_says_that_first(with_cloud, models):
    error = refused(with_cloud(), models, response({"type": "input_file", "file_id": UNKNOWN}, model="@claude/m"), 400)
    assert error["code"] == "unsupported_operation"


def test_prose_that_is_an_id_is_prose(gateway, models):
    body = {"model": "m", "messages": [{"role": "user", "content": UNKNOWN}], "metadata": {"file": UNKNOWN}}
    ask(gateway(), body)
    assert models.sent == [body]


KEYS = {
    "key:both": {"sha256": hashed("fp_both"), "providers": "vllm local claude"},
    "key:through": {"sha256": hashed("fp_through"), "providers": "vllm"},
    "key:beside": {"sha256": hashed("fp_beside"), "providers": "claude"},
    "key:writer": {"sha256": hashed("fp_writer"), "providers": "vllm",
                   "operations": "upload_file create_chat_completion"},
    "key:reader": {"sha256": hashed("fp_reader"), "providers": "vllm", "operations": "list_files"},
}  # fmt: skip


def key(name):
    return {"authorization": f"Bearer fp_{name}"}


def test_each_owner_has_its_own_files_in_requests_too(with_cloud, models):
    client = with_cloud(**KEYS)
    kept = upload(client, TEXT, **key("through"), **{"x-portkey-provider": "@vllm"})
    assert refused(client, models, chat(file(kept)), 404, **key("both"))["code"] == "not_found"
    ask(client, chat(file(kept)), **key("through"))
    assert parts_of(models) == [{"type": "text", "text": WITH_NAME}]


def test_key_uses_a_store_through_the_provider_and_in_no_other_way(with_cloud, models):
    client = with_cloud(**KEYS)
    through = {**key("through"), "x-portkey-provider": "@vllm"}
    kept = upload(client, TEXT, **through)
    client.get(f"/v1/files/{kept}", headers={**key("through"), "x-portkey-provider": "@local"}, status=403)
    client.get(f"/v1/files/{kept}", headers=key("through"), status=403)  # `default_files` is the store itself
    error = refused(client, models, chat(file(kept), model="@claude/m"), 403, **key("through"))
    assert error["message"] == "This gateway key is not for this provider."
    error = refused(client, models, chat(file(kept), model="@claude/m"), 404, **key("beside"))
    assert error["code"] == "not_found"


def test_operations_of_a_key_hold_for_the_store_of_a_provider(with_cloud, models):
    client = with_cloud(**KEYS)
    named = {"x-portkey-provider": "@vllm"}
    kept = upload(client, TEXT, **key("writer"), **named)
    client.get(f"/v1/files/{kept}", headers={**key("writer"), **named}, status=403)
    client.get("/v1/files", headers={**key("reader"), **named})
    error = refused(client, models, chat(file(kept)), 403, **key("writer"))
    assert "retrieve_file_content" in error["message"]


def test_key_for_callers_own_credentials_opens_no_store_through_a_plain_name(gateway, models):
    plain = {name: text for name, text in VLLM.items() if name != "credential"}
    keys = {
        "key:own": {"sha256": hashed("fp_own"), "providers": "", "caller_credentials": "yes"},
        "key:may": {"sha256": hashed("fp_may"), "providers": "plain", "caller_credentials": "yes"},
    }
    client = gateway({"provider:plain": plain, **keys}, default_files="none", default_chat="none")
    own = {"authorization": "Bearer sk-callers-own", "x-portkey-api-key": "fp_own", "x-portkey-provider": "plain"}
    client.get("/v1/files", headers=own, status=403)
    assert refused(client, models, chat(file(UNKNOWN)), 404, **own)["code"] == "not_found"
    client.get("/v1/files", headers={**own, "x-portkey-api-key": "fp_may"})


def test_without_keys_kept_files_are_for_this_machine_alone(gateway, models):
    plain = {name: text for name, text in VLLM.items() if name != "credential"}
    client = gateway({"provider:plain": plain})
    kept = upload(client, TEXT)
    own = {"authorization": "Bearer sk-callers-own", "x-portkey-provider": "plain"}
    ask(client, chat(file(kept)), **own)
    models.sent.clear()
    remote = {"REMOTE_ADDR": "10.0.0.9"}
    answer = client.post_json("/v1/chat/completions", chat(file(kept)), headers=own, extra_environ=remote, status=403)
    assert (answer.json["error"]["code"], models.sent) == ("forbidden", [])
    client.get("/v1/files", headers=own, extra_environ=remote, status=403)
    client.post_json("/v1/chat/completions", chat(), headers=own, extra_environ=remote)
    assert len(models.sent) == 1


def test_files_over_the_limit_are_a_413_and_repeats_count(gateway, models):
    client = gateway(max_inline_bytes=3000)
    small, large = upload(client, PNG, "a.png"), upload(client, PNG * 3, "b.png")
    ask(client, chat(file(small), file(small)))
    models.sent.clear()
    for body, number in ((chat(file(large)), 1), (chat(file(small), file(small), file(small)), 3)):
        error = refused(client, models, body, 413)
        place = f"messages[0].content[{number}].file.file_id"
        assert (error["code"], error["param"]) == ("request_too_large", place) and "max_inline_bytes" in error[
            "message"
        ]


def test_limit_of_a_provider_wins(gateway, models):
    client = gateway({"provider:vllm": {**VLLM, "max_inline_bytes": "10"}}, max_inline_bytes=3000)
    assert refused(client, models, chat(file(upload(client, PNG, "a.png"))), 413)["code"] == "request_too_large"


def test_text_has_a_limit_of_its_own_as_it_is_sent(gateway, models):
    client = gateway()
    ask(client, chat(file(upload(client, "\n" * (MAX_TEXT_BYTES // 2)))))
    models.sent.clear()
    for content in ("\n" * (MAX_TEXT_BYTES // 2 + 1), "a" * (MAX_TEXT_BYTES + 1)):
        error = refused(client, models, chat(file(upload(client, content))), 413)
        assert error["code"] == "request_too_large" and str(MAX_TEXT_BYTES) in error["message"]
        assert "split the file" in error["message"]


def test_neither_size_of_json_counts_the_files(gateway, models):
    client = gateway(max_json_bytes=1000, max_json_in_flight=20_000)
    ask(client, chat(file(upload(client, PNG * 100, "a.png"))))
    assert len(models.sent) == 1


def test_request_with_too_many_files_is_refused(gateway, models):
    client = gateway()
    kept = upload(client, "a")
    ask(client, chat(*[file(kept)] * MAX_PARTS))
    assert len(parts_of(models)) == MAX_PARTS
    models.sent.clear()
    error = refused(client, models, chat(*[file(kept)] * (MAX_PARTS + 1)), 413)
    assert error["param"] == f"messages[0].content[{MAX_PARTS + 1}].file.file_id"


def test_file_that_is_deleted_after_it_was_measured_is_a_404_and_no_request_is_complete(gateway, models):
    client = gateway()
    kept = upload(client, TEXT)
    models.before = lambda: client.delete(f"/v1/files/{kept}")
    error = refused(client, models, chat(file(kept)), 404)
    assert (error["code"], error["param"]) == ("not_found", "messages[0].content[1].file.file_id")


def test_file_that_is_damaged_after_it_was_measured_is_a_500_and_no_request_is_complete(gateway, models, tmp_path):
    client = gateway()
    kept = upload(client, TEXT)
    [blob] = [path for path in (tmp_path / "files" / "blobs").iterdir() if path.suffix != ".json"]
    for damaged in (TEXT[:-1], TEXT.replace("m", "n"), TEXT.replace("m", "\0")):
        blob.write_text(TEXT)
        models.before = lambda damaged=damaged: blob.write_text(damaged)
        assert refused(client, models, chat(file(kept)), 500)["code"] == "store_error"


def test_answer_quotes_no_more_of_a_request_than_fits_on_a_screen(gateway, models):
    client = gateway()
    long, kept = "é" * 100_000, upload(client, "a", "x", "application/x-private")
    for body in (
        {"input": "x", "prompt": {"variables": {long: {"type": "input_file", "file_id": UNKNOWN}}}},
        {"input": "x", "prompt": {"variables": {long: {"type": "input_file", "file_id": UNKNOWN, "file_data": "x"}}}},
        response({"type": "input_file", "file_id": long}),
        response({"type": "input_file", "file_id": kept, "mime_type": long}),
        response({"type": "input_file", "file_id": kept, "mime_type": "a/b", "filename": long}),
        {"input": "x", long: {"file_id": UNKNOWN}},
    ):
        assert len(json.dumps(ask(client, body, "4*").json)) < 5000
    assert models.sent == []


def test_what_a_client_calls_its_variables_is_not_logged(gateway, access_log):
    client = gateway()
    part = {"type": "input_file", "file_id": UNKNOWN, "file_data": "x"}
    ask(client, {"input": "x", "prompt": {"variables": {"the customer's name": part}}}, 400)
    assert "customer" not in json.dumps(access_log())


def test_no_more_than_20_fields_are_named_and_each_once(gateway):
    client = gateway()
    part = file(upload(client, TEXT), **{f"f{number}": 1 for number in range(1000)})
    named = ask(client, chat(part, part)).headers["x-filesproxy-ignored"].split(", ")
    assert named == [f"f{number}" for number in range(20)]


def test_fields_that_a_text_has_no_place_for_are_named(gateway):
    client = gateway()
    answer = ask(client, chat(file(upload(client, TEXT), detail="high", **{"odd\r\nname": 1})))
    assert answer.headers["x-filesproxy-ignored"] == "detail"


def test_file_that_a_translation_has_no_place_for_is_a_400_with_its_place(with_cloud, models):
    """Of a message of the assistant with `content_blocks`, Claude gets these and not the content."""
    client = with_cloud()
    kept = upload(client, TEXT)
    said = {"role": "assistant", "content": [file(kept)], "content_blocks": [{"type": "text", "text": "e"}]}
    for first in ("hi", [file(kept)]):
        messages = [{"role": "user", "content": first}, said, {"role": "user", "content": "go on"}]
        error = refused(client, models, {"model": "@claude/m", "messages": messages}, 400)
        assert error["code"] == "unsupported_file" and error["param"].endswith("file.file_id")


def test_provider_of_ones_own_that_makes_raw_content_gets_no_stand_in(make_client, models, tmp_path):
    def raw(call, send):
        body = json.dumps(call.json).encode()
        return send(call._replace(json=None, content=Content(len(body), "application/json", [body])))

    openai = PROVIDERS["openai"]
    table = {**PROVIDERS, "raw": {**openai, "operations": {**openai["operations"], "create_chat_completion": raw}}}
    sections = {"provider:raw": {"credential": "sk-private", "files": "local"}}
    client = make_client(sections, providers=table, transports={"https": models}, open_access=True,
                         folder=tmp_path / "files", default_provider="raw")  # fmt: skip
    assert refused(client, models, chat(file(upload(client, TEXT))), 500)["code"] == "internal_error"


def test_kept_file_goes_to_no_other_address_than_the_stores_operator_meant(make_client, models, tmp_path):
    sections = {
        "provider:local": {"folder": str(tmp_path / "files"), "inline_to": "azure"},
        "provider:azure": {"kind": "azure-openai", "resource": "corp", "credential": "sk-saved"},
    }
    client = make_client(sections, transports={"https": models}, open_access=True, default_files="local")
    kept = upload(client, TEXT)
    ask(client, chat(file(kept)), **{"x-portkey-provider": "@azure"})
    own = {"x-portkey-provider": "azure", "api-key": "sk-callers-own"}
    ask(client, chat(file(kept)), **own)
    ask(client, chat(file(kept)), **own, **{"x-portkey-azure-resource-name": "corp"})
    error = ask(client, chat(file(kept)), 403, **own, **{"x-portkey-azure-resource-name": "other"}).json["error"]
    assert error["code"] == "forbidden" and {url.split("/")[2] for url in models.urls} == {"corp.openai.azure.com"}


def test_log_has_the_number_and_bytes_of_the_files(gateway, models, access_log):
    client = gateway()
    text, image = upload(client, TEXT), upload(client, PNG, "a.png")
    ask(client, chat(file(text), file(image), file(image)))
    ask(client, chat())
    inlined = len(json.dumps(TEXT, ensure_ascii=False).encode()) - 2 + 2 * len(base64.b64encode(PNG))
    *_, with_files, without = access_log()
    assert (with_files["inline_files"], with_files["inline_bytes"]) == (3, inlined)
    assert "inline_files" not in without and "inline_bytes" not in without


def test_private_provider_needs_nothing_to_take_kept_files(make_client, models, tmp_path):
    table = {**PROVIDERS, "private": {**PROVIDERS["openai"], "base_url": "https://models.internal/v1"}}
    sections = {
        "provider:local": {"folder": str(tmp_path / "files"), "inline_to": "private"},
        "provider:private": {"credential": "sk-private"},
    }
    client = make_client(sections, providers=table, transports={"https": models}, open_access=True,
                         default_files="local", default_chat="private")  # fmt: skip
    ask(client, chat(file(upload(client, TEXT))))
    assert models.urls == ["https://models.internal/v1/chat/completions"]
    assert parts_of(models) == [{"type": "text", "text": WITH_NAME}]
