"""What passes through beside the files, with the SDKs people use: chat, uploads, batches, fine-tuning, responses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import threading
import time
import warnings

import pytest
import strict_azure
import strict_openai
from configurations import hashed
from fakes import content_of, sha
from servers import provider_sections, running
from sockets import SOON, WAIT
from strict_openai_routes import StrictAzureRoutes, StrictOpenAIRoutes

openai = pytest.importorskip("openai", reason="needs the openai package")
pytest.importorskip("gunicorn", reason="needs gunicorn")

GATEWAY_KEY = "fp_" + "passes" * 7
FILES_KEY = "fp_" + "files0" * 7
PROVIDERS = ("@openai", "@azure-dated", "@azure-v1", "compat")
WITH_RESPONSES = ("@openai", "@azure-v1", "compat")
MODELS = {"@openai": "gpt-4o", "@azure-dated": "my-gpt", "@azure-v1": "my-gpt", "compat": "gpt-4o"}
MAX_JSON_BYTES = 200_000
HELLO = [{"role": "user", "content": "Hello there, ünï 日本語"}]
CONFIG = """
[filesproxy]
isolation = no
folder = {folder}
max_json_bytes = {max_json_bytes}
{providers}[key:all]
sha256 = {all_hash}
providers = openai azure-dated azure-v1 local
caller_credentials = yes
[key:files]
sha256 = {files_hash}
providers = openai
operations = list_files retrieve_file
"""

FORM = "multipart/form-data; boundary=b"
PART = '--b\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n\r\nx\r\n--b--\r\n'
CHAT = {"model": "gpt-4o", "messages": HELLO}
#: (operation, method, path, what is sent: JSON, a form, or nothing)
OPERATIONS = (
    ("create_chat_completion", "POST", "/chat/completions", CHAT),
    ("create_upload", "POST", "/uploads", {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"}),
    ("add_upload_part", "POST", "/uploads/upload_none/parts", PART),
    ("complete_upload", "POST", "/uploads/upload_none/complete", {"part_ids": []}),
    ("cancel_upload", "POST", "/uploads/upload_none/cancel", None),
    ("create_batch", "POST", "/batches", {"input_file_id": "file-none"}),
    ("list_batches", "GET", "/batches", None),
    ("retrieve_batch", "GET", "/batches/batch_none", None),
    ("cancel_batch", "POST", "/batches/batch_none/cancel", None),
    ("create_fine_tuning_job", "POST", "/fine_tuning/jobs", {"model": "gpt-4o", "training_file": "file-none"}),
    ("list_fine_tuning_jobs", "GET", "/fine_tuning/jobs", None),
    ("retrieve_fine_tuning_job", "GET", "/fine_tuning/jobs/ftjob-none", None),
    ("cancel_fine_tuning_job", "POST", "/fine_tuning/jobs/ftjob-none/cancel", None),
    ("pause_fine_tuning_job", "POST", "/fine_tuning/jobs/ftjob-none/pause", None),
    ("resume_fine_tuning_job", "POST", "/fine_tuning/jobs/ftjob-none/resume", None),
    ("list_fine_tuning_events", "GET", "/fine_tuning/jobs/ftjob-none/events", None),
    ("list_fine_tuning_checkpoints", "GET", "/fine_tuning/jobs/ftjob-none/checkpoints", None),
    ("create_response", "POST", "/responses", {"model": "gpt-4o", "input": "Hello"}),
    ("retrieve_response", "GET", "/responses/resp_none", None),
    ("delete_response", "DELETE", "/responses/resp_none", None),
    ("cancel_response", "POST", "/responses/resp_none/cancel", None),
    ("list_response_input_items", "GET", "/responses/resp_none/input_items", None),
    ("count_response_input_tokens", "POST", "/responses/input_tokens", {"model": "gpt-4o", "input": "Hello"}),
    ("compact_response", "POST", "/responses/compact", {"model": "gpt-4o", "input": "Hello"}),
)


@pytest.fixture(scope="module")
def upstreams():
    """The fakes by provider."""
    with StrictOpenAIRoutes() as saved, StrictOpenAIRoutes() as compat, StrictAzureRoutes() as azure:
        yield {"@openai": saved, "compat": compat, "@azure-dated": azure, "@azure-v1": azure}


@pytest.fixture(autouse=True)
def behave_and_are_content(upstreams):
    """The fakes start each test well-behaved, and have nothing to complain of at its end."""
    for fake in upstreams.values():
        fake.behave()
    yield
    assert [problem for fake in upstreams.values() for problem in fake.problems] == []


@pytest.fixture(scope="module")
def start(upstreams, tmp_path_factory):
    """Starts a gateway before the fakes, start(kind); each kind of server once, and till the module ends."""
    started = {}
    with contextlib.ExitStack() as stack:

        def starter(kind):
            if kind not in started:
                folder = tmp_path_factory.mktemp(kind)
                (folder / "filesproxy.ini").write_text(_config(upstreams, folder), "utf-8")
                served = running(kind, folder / "run", FILESPROXY_CONFIG=folder / "filesproxy.ini")
                started[kind] = stack.enter_context(served)
            return started[kind]

        yield starter


def _config(upstreams, folder):
    return CONFIG.format(
        folder=folder / "store", max_json_bytes=MAX_JSON_BYTES, providers=provider_sections(upstreams),
        all_hash=hashed(GATEWAY_KEY), files_hash=hashed(FILES_KEY),
    )  # fmt: skip


@pytest.fixture(scope="module")
def gateway(start):
    return start("gunicorn")


@pytest.fixture(scope="module", params=PROVIDERS)
def provider(request):
    return request.param


@pytest.fixture
def fake(upstreams, provider):
    return upstreams[provider]


@pytest.fixture
def client(gateway, provider):
    with sdk(gateway, provider) as made:
        yield made


@pytest.fixture
def saved(gateway):
    """The SDK with the saved OpenAI."""
    with sdk(gateway, "@openai") as made:
        yield made


def sdk(gateway, provider, key=GATEWAY_KEY, own_key=strict_openai.KEY, **options):
    """OpenAI's SDK; with `compat` it brings a key of the caller's own, without a provider it names none."""
    headers = {"x-portkey-api-key": key, **({"x-portkey-provider": provider} if provider else {})}
    api_key = own_key if provider == "compat" else key
    options = {"timeout": 30, "max_retries": 0, **options}
    return openai.OpenAI(api_key=api_key, base_url=gateway.url, default_headers=headers, **options)


def raw(gateway, method, path, value=None, provider="@openai", key=GATEWAY_KEY):
    """(response, its bytes) without an SDK: the value is JSON, a form, bytes as they are, or nothing."""
    headers = {"x-portkey-api-key": key, "x-portkey-provider": provider}
    if value is not None:
        headers["content-type"] = FORM if isinstance(value, str) else "application/json"
    body = json.dumps(value) if isinstance(value, dict) else value
    if body is None and method == "POST":
        headers["content-length"] = "0"
    return gateway.request(method, f"/v1{path}", body, headers)


def error_of(answer):
    """(status, code, param) of a raw answer that is an error."""
    response, body = answer
    error = json.loads(body)["error"]
    return response.status, error["code"], error["param"]


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# batches


def batch_input(client, model, count=3):
    """The id of an uploaded file of that many requests."""
    lines = [
        {
            "custom_id": f"request-{n}", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": f"line {n}"}]},
        }
        for n in range(count)
    ]  # fmt: skip
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return client.files.create(file=("requests.jsonl", content), purpose="batch").id


def new_batch(client, file_id):
    return client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"of": "a test"}
    )


def test_batch_goes_from_its_requests_to_their_answers(client, provider):
    batch = new_batch(client, batch_input(client, MODELS[provider]))
    assert (batch.object, batch.metadata) == ("batch", {"of": "a test"})
    statuses = [batch.status]
    while batch.status != "completed" and len(statuses) < 9:
        batch = client.batches.retrieve(batch.id)
        statuses.append(batch.status)
    assert statuses == ["validating", "in_progress", "completed"]
    assert batch.request_counts.completed == 3
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    said = {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}
    assert said == {f"request-{n}": f"line {n}" for n in range(3)}


def test_batches_are_paged_through_and_each_is_met_once(client, provider, fake):
    file_id = batch_input(client, MODELS[provider], 1)
    for _ in range(5):
        new_batch(client, file_id)
    assert [batch.id for batch in client.batches.list(limit=2)] == list(fake.batches)[::-1]
    page = client.batches.list(limit=3)
    assert (len(page.data), page.has_more) == (3, True)


def test_batch_is_cancelled(client, provider):
    batch = new_batch(client, batch_input(client, MODELS[provider], 1))
    assert client.batches.cancel(batch.id).status == "cancelling"
    assert client.batches.retrieve(batch.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="Cannot cancel"):
        client.batches.cancel(batch.id)


def test_batch_of_a_file_that_is_not_there_is_a_bad_request_with_its_param(client):
    with pytest.raises(openai.BadRequestError) as caught:
        new_batch(client, "file-none")
    assert caught.value.param == "input_file_id"
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")


# uploads


def parts_sent(fake):
    return sum("/parts" in path for _, path, _ in fake.requests)


def test_upload_in_parts_becomes_the_same_file(client, fake, tmp_path):
    path = tmp_path / "in parts 日本語.jsonl"
    path.write_bytes(content_of(3_000_001))
    before = parts_sent(fake)
    upload = client.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="batch", part_size=700_000, md5=md5(path)
    )
    assert (upload.status, upload.bytes, upload.filename) == ("completed", 3_000_001, path.name)
    assert parts_sent(fake) - before == 5
    assert (upload.file.filename, upload.file.bytes, upload.file.purpose) == (path.name, 3_000_001, "batch")
    assert client.files.retrieve(upload.file.id).filename == path.name
    assert sha(client.files.content(upload.file.id).content) == sha(path.read_bytes())


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_parts_are_put_together_in_the_order_that_is_asked_for(client):
    upload = client.uploads.create(bytes=6, filename="a.txt", mime_type="text/plain", purpose="batch")
    first, second = (client.uploads.parts.create(upload.id, data=data) for data in (b"def", b"abc"))
    assert (first.object, first.upload_id) == ("upload.part", upload.id)
    with pytest.raises(openai.BadRequestError, match="3 bytes"):
        client.uploads.complete(upload.id, part_ids=[first.id])
    file = client.uploads.complete(upload.id, part_ids=[second.id, first.id]).file
    assert client.files.content(file.id).content == b"abcdef"


def test_upload_is_cancelled_and_takes_no_more_parts(client):
    upload = client.uploads.create(bytes=3, filename="a.txt", mime_type="text/plain", purpose="batch")
    assert client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.uploads.parts.create(upload.id, data=b"abc")


def test_part_may_have_no_file_name_as_in_openais_own_example_for_curl(gateway, saved):
    upload = saved.uploads.create(bytes=1, filename="a.txt", mime_type="text/plain", purpose="batch")
    response, body = raw(gateway, "POST", f"/uploads/{upload.id}/parts", PART.replace('; filename="a"', ""))
    assert response.status == 200, body


# fine-tuning


@pytest.fixture
def job(client):
    file = client.files.create(file=("training.jsonl", b"{}\n"), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18", training_file=file.id, suffix="of-a-test",
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    )  # fmt: skip


def test_fine_tuning_job_is_made_listed_retrieved_and_cancelled(job, client):
    assert (job.object, job.status, job.model) == ("fine_tuning.job", "validating_files", "gpt-4o-mini-2024-07-18")
    assert job.method.supervised.hyperparameters.n_epochs == 2
    assert client.fine_tuning.jobs.list(limit=1).data[0].id == job.id
    assert client.fine_tuning.jobs.retrieve(job.id).training_file == job.training_file
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="already completed"):
        client.fine_tuning.jobs.cancel(job.id)


def test_fine_tuning_jobs_are_paged_through(job, client, fake):
    assert [each.id for each in client.fine_tuning.jobs.list(limit=1)] == list(fake.jobs)[::-1]


def test_events_and_checkpoints_of_a_fine_tuning_job_are_paged_through(job, client):
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
    assert [event.id for event in events] == [f"ftevent-{n}" for n in (3, 2, 1, 0)]
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=2))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [300, 200, 100]


@pytest.mark.parametrize("provider", WITH_RESPONSES, indirect=True)
def test_fine_tuning_job_is_paused_and_resumed(job, client):
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "running"


@pytest.mark.parametrize("name", ["team", "team-1"])
def test_fine_tuning_jobs_are_asked_for_by_their_metadata(name, saved, upstreams):
    saved.fine_tuning.jobs.list(limit=100, metadata={name: "a"})
    assert f"metadata%5B{name}%5D=a" in upstreams["@openai"].requests[-1][1]


# responses

with_responses = pytest.mark.parametrize("provider", WITH_RESPONSES, indirect=True)
INCLUDES = ["message.input_image.image_url", "file_search_call.results"]


def response_about_a_file(client, provider):
    file = client.files.create(file=("a.pdf", b"%PDF"), purpose="assistants")
    parts = [{"type": "input_text", "text": "What is in it?"}, {"type": "input_file", "file_id": file.id}]
    made = client.responses.create(model=MODELS[provider], input=[{"role": "user", "content": parts}])
    return made, parts


@with_responses
def test_response_about_a_file_is_made_retrieved_and_deleted(client, provider, fake):
    made, parts = response_about_a_file(client, provider)
    assert (made.status, made.output_text) == ("completed", "What is in it?")
    assert fake.bodies[-1][1]["input"] == [{"role": "user", "content": parts}]
    assert client.responses.retrieve(made.id, include=INCLUDES).output_text == "What is in it?"
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


@with_responses
def test_input_items_of_a_response_are_listed_with_both_includes(client, provider, fake):
    made, _ = response_about_a_file(client, provider)
    items = client.responses.input_items.list(made.id, include=INCLUDES, limit=1, order="asc")
    assert [part.type for part in items.data[0].content] == ["input_text", "input_file"]
    query = fake.requests[-1][1].partition("?")[2]
    assert [query.count(f"include%5B%5D={include}") for include in INCLUDES] == [1, 1]


@with_responses
def test_response_streams_its_events_in_order(client, provider):
    with client.responses.stream(model=MODELS[provider], input="One two three") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == "One two three"
    assert (kinds[0], kinds[-1], kinds.count("response.output_text.delta")) == (
        "response.created",
        "response.completed",
        3,
    )


@with_responses
def test_stored_response_is_streamed_again_from_where_it_was_left(client, provider):
    made = client.responses.create(model=MODELS[provider], input="One two three")
    again = list(client.responses.retrieve(made.id, stream=True, starting_after=4))
    assert [event.sequence_number for event in again] == [5, 6, 7, 8, 9, 10]
    assert again[-1].type == "response.completed"


@with_responses
def test_background_response_is_cancelled(client, provider):
    made = client.responses.create(model=MODELS[provider], input="One", background=True)
    assert made.status == "queued"
    assert client.responses.cancel(made.id).status == "cancelled"


@with_responses
def test_input_tokens_are_counted_and_a_response_is_compacted(client, provider):
    counted = client.responses.input_tokens.count(model=MODELS[provider], input="One two")
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", 9)
    assert client.responses.compact(model=MODELS[provider], input="One").object == "response.compaction"


def test_events_keep_their_names(gateway):
    response, body = raw(gateway, "POST", "/responses", {"model": "gpt-4o", "input": "One", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert body.startswith(b"event: response.created\ndata: {")
    assert body.count(b"event: ") == body.count(b"\n\n") == 9
    assert b"[DONE]" not in body


# chat


def test_chat_completion_comes_as_the_provider_made_it(client, provider, fake):
    completion = client.chat.completions.create(model=MODELS[provider], messages=HELLO, temperature=0.5)
    assert completion.choices[0].message.content == HELLO[0]["content"]
    assert completion.usage.total_tokens > 0
    assert fake.bodies[-1][1]["temperature"] == 0.5


def test_chat_completion_is_streamed_with_its_usage(client, provider):
    chunks = list(
        client.chat.completions.create(
            model=MODELS[provider], messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert text_of(chunks) == HELLO[0]["content"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 4


def test_stream_comes_as_it_is_made_and_without_usage_that_nobody_asked_for(client, provider, fake):
    fake.stream_gate = threading.Event()
    stream = client.chat.completions.create(model=MODELS[provider], messages=HELLO, stream=True)
    first = next(stream)  # while the provider holds the others back
    fake.stream_gate.set()
    chunks = [first, *stream]
    assert text_of(chunks) == HELLO[0]["content"]
    assert not any(chunk.usage for chunk in chunks)


def test_async_stream_is_whole(gateway):
    import asyncio

    async def streamed():
        headers = {"x-portkey-provider": "@openai"}
        async with openai.AsyncOpenAI(api_key=GATEWAY_KEY, base_url=gateway.url, default_headers=headers) as client:
            stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            return text_of([chunk async for chunk in stream])

    assert asyncio.run(streamed()) == HELLO[0]["content"]


def test_model_names_the_provider_where_no_header_does(gateway, upstreams):
    with sdk(gateway, "") as client:
        completion = client.chat.completions.create(model="@openai/gpt-4o", messages=HELLO)
        response = client.responses.create(model="@openai/gpt-4o", input="One")
    assert (completion.model, response.model) == ("gpt-4o", "gpt-4o")
    assert [body["model"] for _, body in upstreams["@openai"].bodies[-2:]] == ["gpt-4o", "gpt-4o"]


def test_model_names_azures_deployment_after_the_provider(gateway):
    with sdk(gateway, "") as client:
        for name in ("azure-dated", "azure-v1"):
            completion = client.chat.completions.create(model=f"@{name}/my-gpt", messages=HELLO)
            assert completion.model == "gpt-4o-2024-08-06"


def test_deployment_may_be_named_in_portkeys_header(gateway, upstreams):
    with sdk(gateway, "@azure-dated") as client:
        headers = {"x-portkey-azure-deployment-id": "my-gpt"}
        client.chat.completions.create(model="gpt-4o", messages=HELLO, extra_headers=headers)
    assert "/deployments/my-gpt/chat/completions" in upstreams["@azure-dated"].requests[-1][1]


def test_deployment_that_is_not_there_is_a_not_found_error(gateway):
    for name in ("@azure-dated", "@azure-v1"):
        with sdk(gateway, name) as client, pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="nothing", messages=HELLO)
        assert (caught.value.code, caught.value.request_id is not None) == ("DeploymentNotFound", True)


def test_file_part_reaches_the_provider_without_its_mime_type(client, provider, fake):
    file = client.files.create(file=("a.pdf", b"%PDF"), purpose="assistants")
    text = {"type": "text", "text": "What is in it?"}
    part = {"type": "file", "file": {"file_id": file.id, "mime_type": "application/pdf"}}
    messages = [{"role": "user", "content": [text, part]}]
    completion = client.chat.completions.create(model=MODELS[provider], messages=messages)
    assert completion.choices[0].message.content == "What is in it?"
    assert fake.bodies[-1][1]["messages"][0]["content"] == [text, {"type": "file", "file": {"file_id": file.id}}]


def test_file_id_that_the_provider_does_not_know_is_a_bad_request_with_its_param(client, provider):
    part = {"type": "file", "file": {"file_id": "file-none"}}
    with pytest.raises(openai.BadRequestError, match="No such file") as caught:
        client.chat.completions.create(model=MODELS[provider], messages=[{"role": "user", "content": [part]}])
    assert caught.value.param == "messages[0].content[0].file.file_id"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("status", "error_class"), [(429, openai.RateLimitError), (500, openai.InternalServerError)], ids=str
)
def test_refusal_of_the_provider_keeps_status_words_and_headers(status, error_class, is_stream, saved, upstreams):
    error = {"message": "Slow down.", "type": "requests", "param": None, "code": "its_code"}
    upstreams["@openai"].chat_refusal = status, error, {"retry-after": "7", "x-ratelimit-limit-requests": "60"}
    with pytest.raises(error_class, match="Slow down.") as caught:
        saved.chat.completions.create(model="gpt-4o", messages=HELLO, stream=is_stream)
    headers = caught.value.response.headers
    assert (caught.value.code, caught.value.type, caught.value.status_code) == ("its_code", "requests", status)
    assert (headers["retry-after"], headers["x-ratelimit-limit-requests"]) == ("7", "60")
    assert headers["x-request-id"].startswith("req_")


def test_wrong_key_of_the_caller_is_an_authentication_error(gateway):
    with sdk(gateway, "compat", own_key="sk-wrong") as client:
        calls = (
            lambda: client.chat.completions.create(model="gpt-4o", messages=HELLO),
            lambda: client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True),
            lambda: client.batches.list(),
            lambda: client.responses.create(model="gpt-4o", input="One"),
        )
        for call in calls:
            with pytest.raises(openai.AuthenticationError) as caught:
                call()
            assert caught.value.code == "invalid_api_key"
            assert "sk-wrong" not in str(caught.value)


def test_json_in_place_of_a_stream_reaches_the_client_as_json(gateway, upstreams):
    upstreams["@openai"].ignore_stream = True
    response, body = raw(gateway, "POST", "/chat/completions", {**CHAT, "stream": True})
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert json.loads(body)["choices"][0]["message"]["content"] == HELLO[0]["content"]


def test_no_header_of_the_upstreams_own_is_seen_on_a_stream(gateway):
    for provider in PROVIDERS[:3]:
        chat = {**CHAT, "model": MODELS[provider], "stream": True}
        response, body = raw(gateway, "POST", "/chat/completions", chat, provider)
        assert body.endswith(b"data: [DONE]\n\n")
        names = {name.lower() for name in response.headers}
        assert not names & (set(strict_azure.AZURE_LEAKS) - {"server"} | {"apim-request-id", "location"})
        assert response.headers["cache-control"] == "no-store"


# streams that do not end as they should

ENDINGS = ("stream_cut", "stream_quiet_end")


@pytest.mark.parametrize("ending", ENDINGS)
def test_chat_that_ends_early_is_an_api_error(ending, client, provider, fake):
    setattr(fake, ending, 3)
    received = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in client.chat.completions.create(model=MODELS[provider], messages=HELLO, stream=True):
            received.append(chunk)
    assert len(received) == 3
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert caught.value.code == "upstream_error"


@with_responses
@pytest.mark.parametrize("ending", ENDINGS)
def test_response_that_ends_early_is_an_api_error(ending, client, provider, fake):
    setattr(fake, ending, 5)
    with pytest.raises(openai.APIError) as caught:
        list(client.responses.create(model=MODELS[provider], input="One two three", stream=True))
    assert caught.value.code == "upstream_error"


@pytest.mark.parametrize("ending", ENDINGS)
def test_stream_that_ends_before_its_first_event_is_an_error_with_a_status(ending, saved, upstreams):
    setattr(upstreams["@openai"], ending, 0)
    with pytest.raises(openai.InternalServerError) as caught:
        saved.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")


def test_log_tells_of_a_stream_that_ended_early(start, upstreams):
    gateway = start("embedded")
    upstreams["@openai"].stream_cut = 3
    raw(gateway, "POST", "/chat/completions", {**CHAT, "stream": True})
    (line,) = gateway.wait_for_lines(1, operation="create_chat_completion", error="upstream_error")
    assert (line["status"], line["provider"], line["key"]) == (200, "@openai", "all")


NODE = r"""
import OpenAI from "openai";
const [baseURL, apiKey, text] = process.argv.slice(2);
const client = new OpenAI({ apiKey, baseURL, maxRetries: 0, defaultHeaders: { "x-portkey-provider": "@openai" } });
const chat = { model: "gpt-4o", messages: [{ role: "user", content: text }] };
const seen = { streamed: "", thrown: null };
try {
  const options = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create({ ...chat, ...options })) {
    seen.streamed += chunk.choices[0]?.delta?.content ?? "";
    seen.usage = chunk.usage?.completion_tokens;
  }
  seen.plain = (await client.chat.completions.create(chat)).choices[0].message.content;
  seen.response = (await client.responses.create({ model: "gpt-4o", input: text })).output_text;
} catch (error) {
  seen.thrown = { is: error instanceof OpenAI.APIError, code: error.code, text: error.message };
}
console.log(JSON.stringify(seen));
"""


@pytest.fixture
def node(node_folder, gateway):
    """What OpenAI's SDK for Node sees of a stream, and then of a chat and a response in one piece."""
    (node_folder / "chat.mjs").write_text(NODE, "utf-8")

    def run(text):
        words = ["node", "chat.mjs", gateway.url, GATEWAY_KEY, text]
        done = subprocess.run(words, cwd=node_folder, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run


def test_node_chats_and_streams(node):
    text = HELLO[0]["content"]
    assert node(text) == {"streamed": text, "usage": 4, "plain": text, "response": text, "thrown": None}


@pytest.mark.parametrize("ending", ENDINGS)
def test_node_throws_where_a_stream_ends_early(ending, node, upstreams):
    setattr(upstreams["@openai"], ending, 3)
    seen = node("One two three four")
    assert seen["streamed"] == "One two"
    assert (seen["thrown"]["is"], seen["thrown"]["code"]) == (True, "upstream_error")


@pytest.fixture
def portkey(gateway):
    """Portkey's SDK with this provider, or with none."""
    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        portkey_ai = pytest.importorskip("portkey_ai", reason="needs the portkey-ai package")

        def make(**options):
            made.append(portkey_ai.Portkey(api_key=GATEWAY_KEY, base_url=gateway.url, **options))
            return made[-1]

        yield make
        for client in made:
            client.openai_client.close()


def test_portkey_chats_and_streams(portkey):
    client = portkey(provider="@openai")
    plain = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert plain.choices[0].message.content == HELLO[0]["content"]
    assert text_of(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)) == HELLO[0]["content"]


def test_portkey_names_the_provider_in_the_model(portkey):
    for model, answers in (("@openai/gpt-4o", "gpt-4o"), ("@azure-dated/my-gpt", "gpt-4o-2024-08-06")):
        assert portkey().chat.completions.create(model=model, messages=HELLO).model == answers


def test_portkey_raises_where_a_stream_ends_early(portkey, upstreams):
    upstreams["@openai"].stream_quiet_end = 3
    with pytest.raises(Exception, match="ended its stream early"):
        list(portkey(provider="@openai").chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))


# clients that leave


@pytest.fixture(params=["gunicorn", "embedded"])
def served(request, start):
    return start(request.param)


def seconds_until(event):
    """How long it took until the event came; it does come."""
    before = time.monotonic()
    assert event.wait(WAIT)
    return time.monotonic() - before


def test_client_that_leaves_a_silent_stream_ends_it_upstream(served, upstreams):
    fake = upstreams["@openai"]
    fake.stream_gate = threading.Event()
    with sdk(served, "@openai") as client:
        stream = client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        next(stream)
        assert not fake.stream_gone.wait(0.5)  # nobody has left yet
        stream.close()
        assert seconds_until(fake.stream_gone) < SOON


GENERATED = {
    "chat": ("chat/completions", CHAT),
    "streamed chat": ("chat/completions", {**CHAT, "stream": True}),
    "response": ("responses", {"model": "gpt-4o", "input": "One"}),
    "streamed response": ("responses", {"model": "gpt-4o", "input": "One", "stream": True}),
}


def leave_before_the_first_byte(gateway, fake, generated):
    """Ask for what a model makes, and hang up while it is silent."""
    fake.answer_gate = threading.Event()
    path, value = GENERATED[generated]
    body, before = json.dumps(value).encode(), len(fake.bodies)
    head = [f"POST /v1/{path} HTTP/1.1", "host: localhost", f"x-portkey-api-key: {GATEWAY_KEY}"]
    head += ["x-portkey-provider: @openai", "content-type: application/json", f"content-length: {len(body)}"]
    with gateway.connect() as sock:
        sock.sendall("\r\n".join([*head, "", ""]).encode() + body)
        assert fake.wait_for(lambda: len(fake.bodies) > before)
        assert not fake.stream_gone.wait(0.5)


@pytest.mark.parametrize("generated", GENERATED)
def test_client_that_leaves_before_the_first_byte_ends_the_call_upstream(generated, served, upstreams):
    leave_before_the_first_byte(served, upstreams["@openai"], generated)
    assert seconds_until(upstreams["@openai"].stream_gone) < SOON


def test_call_that_the_client_left_is_in_the_log_as_such(served, upstreams):
    wanted = {"operation": "create_chat_completion", "error": "client_aborted"}
    before = len(served.lines(**wanted))
    leave_before_the_first_byte(served, upstreams["@openai"], "chat")
    assert len(served.wait_for_lines(before + 1, **wanted)) == before + 1
    assert seconds_until(upstreams["@openai"].stream_gone) < SOON  # else the next test would see it


# what is refused before it is sent


@pytest.fixture
def nothing_sent(upstreams):
    """No upstream hears of what a test does."""
    before = {name: len(fake.requests) for name, fake in upstreams.items()}
    yield
    assert {name: len(fake.requests) for name, fake in upstreams.items()} == before


@pytest.mark.parametrize("provider", ["@openai", "@azure-dated", "local"])
def test_json_over_the_limit_is_a_413(provider, gateway, nothing_sent):
    for path in ("/chat/completions", "/responses", "/batches", "/fine_tuning/jobs", "/uploads"):
        value = {**CHAT, "input": "x" * MAX_JSON_BYTES}
        assert error_of(raw(gateway, "POST", path, value, provider)) == (413, "request_too_large", None)


def test_json_up_to_the_limit_is_sent(gateway):
    room = MAX_JSON_BYTES - len(json.dumps({"model": "gpt-4o", "input": ""}))
    assert raw(gateway, "POST", "/responses", {"model": "gpt-4o", "input": "x" * room})[0].status == 200


def test_too_much_json_is_no_reason_to_try_again(gateway, nothing_sent):
    before = len(gateway.lines(status=413))
    with sdk(gateway, "@openai", max_retries=2) as client, pytest.raises(openai.APIStatusError) as caught:
        client.responses.create(model="gpt-4o", input="x" * MAX_JSON_BYTES)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert len(gateway.wait_for_lines(before + 1, status=413)) == before + 1


BROKEN = [
    b"",
    b"{",
    b"[]",
    b'"text"',
    b"null",
    b'{"model": NaN}',
    b'{"model": "a", "model": "b"}',
    b'{"model": "\xff"}',
]


@pytest.mark.parametrize("body", BROKEN, ids=repr)
def test_broken_json_is_a_400(body, gateway, nothing_sent):
    for path in ("/chat/completions", "/responses", "/batches"):
        status, code, _ = error_of(raw(gateway, "POST", path, body))
        assert (status, code) == (400, "invalid_json")


def chat_with(part):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]}


TWO_SOURCES = {"type": "file", "file": {"file_id": "file-1", "file_data": "data:text/plain;base64,eA=="}}
MISTAKES = [
    ({"model": "gpt-4o", "messages": []}, "messages"),
    ({"model": "gpt-4o"}, "messages"),
    ({"model": "gpt-4o", "messages": "Hello"}, "messages"),
    ({"messages": HELLO}, "model"),
    ({**CHAT, "stream": "yes"}, "stream"),
    ({"model": "gpt-4o", "messages": ["Hello"]}, "messages[0]"),
    (chat_with(TWO_SOURCES), "messages[0].content[1].file"),
    (chat_with({"type": "file", "file": {}}), "messages[0].content[1].file"),
    (chat_with({"type": "file", "file": {"file_id": "../batches"}}), "messages[0].content[1].file.file_id"),
]


@pytest.mark.parametrize(("value", "param"), MISTAKES, ids=[param for _, param in MISTAKES])
def test_chat_that_no_provider_would_take_is_refused_with_its_place(value, param, gateway, nothing_sent):
    for provider in ("@openai", "@azure-dated"):
        status, _, given = error_of(raw(gateway, "POST", "/chat/completions", value, provider))
        assert (status, given) == (400, param)


@pytest.mark.parametrize(("operation", "method", "path", "value"), OPERATIONS, ids=[row[0] for row in OPERATIONS])
def test_operation_reaches_the_provider_and_the_log_under_its_name(operation, method, path, value, gateway, upstreams):
    fake = upstreams["@openai"]
    before, logged = len(fake.requests), len(gateway.lines(operation=operation))
    response, body = raw(gateway, method, path, value)
    assert response.status in (200, 400, 404), body
    (call,) = fake.requests[before:]
    assert call[:2] == (method, f"/v1{path}")
    lines = gateway.wait_for_lines(logged + 1, operation=operation)
    assert [line["status"] for line in lines[logged:]] == [response.status]


@pytest.mark.parametrize(("operation", "method", "path", "value"), OPERATIONS, ids=[row[0] for row in OPERATIONS])
def test_provider_that_only_keeps_files_says_that_it_has_no_such_operation(operation, method, path, value, gateway):
    response, body = answer = raw(gateway, method, path, value, "local")
    assert error_of(answer) == (400, "unsupported_operation", None)
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("operation", "method", "path", "value"), OPERATIONS, ids=[row[0] for row in OPERATIONS])
def test_key_for_files_only_is_refused_everything_else(operation, method, path, value, gateway, nothing_sent):
    assert error_of(raw(gateway, method, path, value, key=FILES_KEY)) == (403, "forbidden", None)


def test_key_for_files_only_lists_files_and_sees_the_sdks_own_error_elsewhere(gateway):
    with sdk(gateway, "@openai", key=FILES_KEY) as client:
        client.files.list()
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model="gpt-4o", messages=HELLO)
