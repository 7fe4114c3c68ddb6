"""Where chats and Responses refer to files, and what each part becomes once it holds the file."""

from __future__ import annotations

import pytest

from filesproxy.errors import BadRequest
from filesproxy.gateway.file_references import (
    PARTS,
    REFERENCES,
    Content,
    in_chat,
    in_response,
    kept_id_in,
    whole,
)
from filesproxy.wire.inlined_json import base64_of, stand_in

KEPT = "file-0660d3fd1a774004570ae91458c94f624c975f"
MARK = stand_in("0123456789abcdef" * 2, 7)
MARK64 = base64_of(MARK)


def chat(*parts, role="user"):
    return {"messages": [{"role": "system", "content": "hi"}, {"role": role, "content": list(parts)}]}


def response(*parts):
    return {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}, *parts]}]}


def found(references):
    return [(each.place, each.file_id) for each in references]


@pytest.mark.parametrize(
    "part,place",
    [
        ({"type": "file", "file": {"file_id": KEPT}}, "file.file_id"),
        ({"type": "file", "file": {"file_id": "file-1", "filename": "a"}}, "file.file_id"),
        ({"type": "image_url", "image_url": {"file_id": KEPT}}, "image_url.file_id"),
        ({"type": "image_url", "image_url": {"file_id": KEPT, "url": ""}}, "image_url.file_id"),
        ({"type": "image_url", "image_url": {"url": KEPT}}, "image_url.url"),
        ({"type": "image_url", "image_url": KEPT}, "image_url.url"),
    ],
)
def test_parts_of_a_chat_that_refer_to_files(part, place):
    [each] = in_chat(chat({"type": "text", "text": "a"}, part))
    assert each.place == f"messages[1].content[1].{place}" and each.holder[each.key] is part
    assert each.is_image == (part["type"] == "image_url")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": KEPT},
        {"type": "file", "file": {"file_data": "data:,"}},
        {"type": "image_url", "image_url": {"url": "https://a.example/" + KEPT}},
        {"type": "image_url", "image_url": {"url": "file-abc"}},
        {"type": "image_url", "image_url": None},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {"file_id": 5}},
        {"type": "input_audio", "input_audio": {"data": KEPT}},
    ],
)
def test_parts_of_a_chat_that_refer_to_none(part):
    assert found(in_chat(chat(part))) == []


@pytest.mark.parametrize(
    "body,places",
    [
        (response({"type": "input_file", "file_id": KEPT}), ["input[0].content[1].file_id"]),
        (response({"type": "input_image", "file_id": KEPT}), ["input[0].content[1].file_id"]),
        (response({"type": "input_image", "image_url": KEPT}), ["input[0].content[1].image_url"]),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file",
          "file_id": KEPT}, {"type": "input_image", "file_id": KEPT}]}]},
         ["input[0].output[0].file_id", "input[0].output[1].file_id"]),
        ({"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "file_id": KEPT}}]},
         ["input[0].output.file_id"]),
        ({"input": [{"type": "input_file", "file_id": KEPT}]}, ["input[0].file_id"]),
        ({"input": "hi", "prompt": {"id": "p", "variables": {"city": "Rome", "doc": {"type": "input_file",
          "file_id": KEPT}}}}, ["prompt.variables.doc.file_id"]),
    ],
)  # fmt: skip
def test_parts_of_a_response_that_refer_to_files(body, places):
    assert found(in_response(body)) == [(place, KEPT) for place in places]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"input": KEPT}, {"input": None}, {"input": [KEPT, None, 5, []]}, {"input": [{"content": KEPT}]},
        {"input": [{"content": [KEPT, None]}]}, {"input": [{"output": KEPT}]}, {"prompt": KEPT}, {"prompt": {}},
        {"prompt": {"variables": [KEPT]}}, response({"type": "input_text", "text": KEPT}),
        response({"type": "input_file", "file_data": KEPT}), response({"type": "input_file", "file_id": None}),
        response({"type": ["input_file"]}), response({"type": "output_text", "annotations": [{"file_id": KEPT}]}),
    ],
)  # fmt: skip
def test_what_else_clients_send_to_responses_refers_to_none(body):
    assert found(in_response(body)) == []


@pytest.mark.parametrize(
    "references",
    [
        lambda: in_chat(chat({"type": "image_url", "image_url": {"file_id": KEPT, "url": "https://a.example/b"}})),
        lambda: in_chat(chat({"type": "image_url", "image_url": {"file_id": "file-1", "url": KEPT}})),
        lambda: in_response(response({"type": "input_file", "file_id": KEPT, "file_data": "data:,"})),
        lambda: in_response(response({"type": "input_file", "file_id": KEPT, "file_url": "https://a.example"})),
        lambda: in_response(response({"type": "input_image", "file_id": KEPT, "image_url": KEPT})),
    ],
)
def test_kept_file_beside_another_source_is_refused_because_one_would_be_lost(references):
    with pytest.raises(BadRequest, match="must have only one of") as caught:
        list(references())
    assert caught.value.code == "conflicting_sources"
    assert caught.value.param.startswith(("messages[1].content[0]", "input[0].content[1]"))


def test_ids_of_a_provider_beside_another_source_are_for_the_provider_to_judge():
    assert found(in_response(response({"type": "input_file", "file_id": "file-1", "file_data": "x"}))) == [
        ("input[0].content[1].file_id", "file-1")
    ]


IMAGE = Content("image", "image/webp", "a.webp", MARK)
TEXT = Content("text", "text/plain", "a.csv", MARK)
PDF = Content("pdf", "application/pdf", "a.pdf", MARK)
MP3 = Content("audio", "audio/mpeg", "a.mp3", MARK)
WAV = Content("audio", "audio/wav", "a.wav", MARK)
VIDEO = Content("video", "video/mp4", "a.mp4", MARK)
WITH_NAME = f"[file: a.csv]\n{MARK}\n[end of a.csv]"


def made(operation, part, file, text_is_file=False):
    body = chat(part) if operation == "create_chat_completion" else response(part)
    [reference] = REFERENCES[operation](body)
    return PARTS[operation](reference, file, text_is_file)


@pytest.mark.parametrize(
    "file,part",
    [
        (TEXT, {"type": "text", "text": WITH_NAME}),
        (IMAGE, {"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{MARK64}"}}),
        (PDF, {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{MARK64}"}}),
        (MP3, {"type": "input_audio", "input_audio": {"data": MARK64, "format": "mp3"}}),
        (WAV, {"type": "input_audio", "input_audio": {"data": MARK64, "format": "wav"}}),
        (VIDEO, {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{MARK64}"}}),
    ],
)
def test_part_of_a_chat_becomes_what_holds_the_file(file, part):
    given = {"type": "file", "file": {"file_id": KEPT, "filename": "b", "mime_type": "c"}}
    assert made("create_chat_completion", given, file) == part


def test_text_is_a_file_where_the_provider_wants_it_so():
    given = {"type": "file", "file": {"file_id": KEPT}}
    data = f"data:text/plain;base64,{MARK64}"
    expected = {"type": "file", "file": {"filename": "a.csv", "file_data": data}}
    assert made("create_chat_completion", given, TEXT, text_is_file=True) == expected


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_text_stays_text_where_no_provider_takes_a_file(role):
    [reference] = in_chat(chat({"type": "file", "file": {"file_id": KEPT}}, role=role))
    assert PARTS["create_chat_completion"](reference, TEXT, True) == {"type": "text", "text": WITH_NAME}


@pytest.mark.parametrize("name", ["file_id", "url"])
def test_detail_of_an_image_is_kept(name):
    given = {"type": "image_url", "image_url": {name: KEPT, "detail": "high"}}
    url = f"data:image/webp;base64,{MARK64}"
    assert made("create_chat_completion", given, IMAGE)["image_url"] == {"url": url, "detail": "high"}


@pytest.mark.parametrize(
    "file,part",
    [
        (TEXT, {"type": "input_text", "text": WITH_NAME}),
        (IMAGE, {"type": "input_image", "image_url": f"data:image/webp;base64,{MARK64}", "detail": "auto"}),
        (PDF, {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{MARK64}"}),
        (MP3, None),
        (VIDEO, None),
    ],
)
@pytest.mark.parametrize("operation", ["create_response", "compact_response", "count_response_input_tokens"])
def test_part_of_a_response_becomes_what_holds_the_file(operation, file, part):
    assert made(operation, {"type": "input_file", "file_id": KEPT, "filename": "b"}, file) == part


def test_detail_of_an_image_and_what_else_a_part_has_are_kept_in_responses():
    [reference] = in_response(response({"type": "input_image", "file_id": KEPT, "detail": "low", "cache_control": 1}))
    url = f"data:image/webp;base64,{MARK64}"
    part = PARTS["create_response"](reference, IMAGE, False)
    assert whole(reference, part) == (
        {"type": "input_image", "image_url": url, "detail": "low", "cache_control": 1}, [],
    )  # fmt: skip


FIELDS = {"file_id": KEPT, "filename": "a", "mime_type": "b", "detail": "low", "max_patches": 5}


@pytest.mark.parametrize(
    "file,inner,ignored",
    [
        (IMAGE, {"image_url": {"url": IMAGE.data_url, "detail": "low", "max_patches": 5}}, []),
        (PDF, {"file": {"filename": "a.pdf", "file_data": PDF.data_url, "max_patches": 5}}, ["detail"]),
        (MP3, {"input_audio": {"data": MARK64, "format": "mp3", "max_patches": 5}}, ["detail"]),
        (TEXT, {"text": WITH_NAME}, ["detail", "max_patches"]),
    ],
    ids=["image", "pdf", "sound", "text"],
)
def test_what_else_the_client_said_of_a_file_stays_or_is_named_as_ignored(file, inner, ignored):
    [reference] = in_chat(chat({"type": "file", "file": FIELDS, "cache_control": {"type": "ephemeral"}}))
    part, names = whole(reference, PARTS["create_chat_completion"](reference, file, False))
    assert {name: value for name, value in part.items() if name != "type"} == {
        **inner, "cache_control": {"type": "ephemeral"},
    }  # fmt: skip
    assert names == ignored


def test_part_that_would_overwrite_what_the_client_sent_is_refused():
    [reference] = in_chat(chat({"type": "file", "file": {"file_id": KEPT}, "text": "read this"}))
    with pytest.raises(BadRequest, match="must have only one of file_id and text") as caught:
        whole(reference, PARTS["create_chat_completion"](reference, TEXT, False))
    assert (caught.value.param, caught.value.code) == ("messages[1].content[0].file", "conflicting_sources")


LONG = "x" * 1000


@pytest.mark.parametrize(
    "value,place",
    [
        ({"file_id": KEPT}, "file_id"),
        ({"file_id": f" {KEPT}\n"}, "file_id"),
        ({"a": [{"b": {"file_ids": ["x", KEPT]}}]}, "a[0].b.file_ids[1]"),
        ({"part_ids": KEPT}, "part_ids"),
        ({"tools": [{"input_image_mask": {"file_id": KEPT}}]}, "tools[0].input_image_mask.file_id"),
        ({"content": [{"type": "video_url", "video_url": {"url": KEPT}}]}, "content[0].video_url.url"),
        ({"content": [{"file": {"file_data": KEPT}}]}, "content[0].file.file_data"),
        ({"input": {"type": "input_file", "file_id": KEPT}}, "input.file_id"),
        (
            {"prompt": {"variables": {"doc": [{"type": "input_file", "file_id": KEPT}]}}},
            "prompt.variables.doc[0].file_id",
        ),
        ({"prompt": {"variables": {"doc": {"type": "input_text", "file_id": KEPT}}}}, "prompt.variables.doc.file_id"),
        ({"method": {"parameters": {"training_file": KEPT}}}, "method.parameters.training_file"),
        ({"model": KEPT}, "model"),
        ({LONG: {"file_id": KEPT}}, f"{'x' * 64}.file_id"),
        ({"after": KEPT}, "after"),
        ({"after": ["x", KEPT]}, "after[1]"),
    ],
)
def test_kept_id_is_found_wherever_it_could_be_meant_as_one(value, place):
    assert kept_id_in(value) == place


OUTPUT = {"type": "shell_call_output", "output": [{"stdout": f"{KEPT}\n", "stderr": ""}]}
CALL = {"type": "code_interpreter_call", "code": KEPT, "outputs": [{"type": "logs", "logs": KEPT}]}
SAID = {"content": [{"type": "output_text", "text": "x", "annotations": [{"type": "file_citation", "file_id": KEPT}]}]}


@pytest.mark.parametrize(
    "value",
    [
        {"content": KEPT}, {"content": [{"text": KEPT}]}, {"input": KEPT}, {"input": ["a", KEPT]}, {"output": KEPT},
        {"arguments": KEPT}, {"arguments": {"file_id": KEPT}}, {"metadata": {"file": KEPT}}, {"filename": KEPT},
        {"tools": [{"name": "f", "parameters": {"properties": {"file_id": {"enum": [KEPT]}}, "file_id": KEPT}}]},
        {"prompt": {"variables": {"file_id": KEPT}}}, {"file_id": f"see {KEPT}"}, {KEPT: "x"},
        {"file_id": KEPT.upper()},
        {"file_id": "file-abc", "n": 5, "x": None}, {}, [], {"file_id": KEPT + LONG}, {"file_id": {}}, {"file_ids": []},
        {"input": [OUTPUT, CALL, SAID, {"type": "shell_call", "action": {"commands": [KEPT], "file": KEPT}}]},
        {"content_blocks": [{"type": "tool_use", "input": {"file_id": KEPT}}]}, {"queries": [KEPT]}, {"stop": [KEPT]},
        {"guided_json": {"file_id": KEPT}}, {"guided_choice": [KEPT]}, {"documents": [{"id": KEPT, "url": KEPT}]},
        {"reasoning_content": KEPT}, {"headers": {"url": KEPT}}, {"filters": {"value": KEPT}},
    ],
)  # fmt: skip
def test_prose_and_what_is_the_clients_own_may_hold_what_it_likes(value):
    assert kept_id_in(value) is None


def test_screenshot_stays_a_screenshot():
    [reference] = in_response({"input": [{"output": {"type": "computer_screenshot", "file_id": KEPT}}]})
    url = f"data:image/webp;base64,{MARK64}"
    assert PARTS["create_response"](reference, IMAGE, False) == {"type": "computer_screenshot", "image_url": url}
