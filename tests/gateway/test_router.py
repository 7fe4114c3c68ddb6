"""The router: which operation a method and a path name, what is 404, 405 and 400, and what an id may contain."""

from __future__ import annotations

import pytest

from filesproxy.errors import BadRequest, MethodNotAllowed, NotFound
from filesproxy.gateway.router import Match, route
from filesproxy.operations import ROUTES, checked_id


def row(operation):
    """The first row of an operation."""
    return next(route for route in ROUTES if route.operation == operation)


FOUND = {
    ("POST", "/v1/files"): Match(row("upload_file")),
    ("GET", "/v1/files"): Match(row("list_files")),
    ("HEAD", "/v1/files"): Match(row("list_files")),
    ("GET", "/v1/files/file-1"): Match(row("retrieve_file"), ("file-1",)),
    ("HEAD", "/v1/files/file-1"): Match(row("retrieve_file"), ("file-1",)),
    ("DELETE", "/v1/files/file-1"): Match(row("delete_file"), ("file-1",)),
    ("GET", "/v1/files/file-1/content"): Match(row("retrieve_file_content"), ("file-1",)),
    ("HEAD", "/v1/files/file-1/content"): Match(row("retrieve_file_content"), ("file-1",)),
    ("GET", "/v1/files/content"): Match(row("retrieve_file"), ("content",)),
    ("GET", "/v1/files/content/content"): Match(row("retrieve_file_content"), ("content",)),
    ("POST", "/v1/chat/completions"): Match(row("create_chat_completion")),
    ("POST", "/v1/uploads/upload_1/parts"): Match(row("add_upload_part"), ("upload_1",)),
    ("GET", "/v1/batches/batch_1"): Match(row("retrieve_batch"), ("batch_1",)),
    ("POST", "/v1/fine_tuning/jobs/ftjob-1/cancel"): Match(row("cancel_fine_tuning_job"), ("ftjob-1",)),
    ("POST", "/v1/responses/input_tokens"): Match(row("count_response_input_tokens")),
    ("GET", "/v1/responses/input_tokens"): Match(row("retrieve_response"), ("input_tokens",)),
    ("GET", "/v1/responses/resp_1/input_items"): Match(row("list_response_input_items"), ("resp_1",)),
    ("GET", "/v1/batches/batch_1/output"): Match(row("retrieve_batch_output"), ("batch_1",)),
    ("GET", "/v1/containers/files"): Match(row("retrieve_container"), ("files",)),
    ("GET", "/v1/containers/cntr_1/files"): Match(row("list_container_files"), ("cntr_1",)),
    ("GET", "/v1/containers/cntr_1/files/cfile_1"): Match(row("retrieve_container_file"), ("cntr_1", "cfile_1")),
    ("GET", "/v1/containers/files/files/content/content"): Match(
        row("retrieve_container_file_content"), ("files", "content")
    ),
    ("POST", "/v1/vector_stores/vs_1/file_batches/vsfb_1/cancel"): Match(
        row("cancel_vector_store_file_batch"), ("vs_1", "vsfb_1")
    ),
    ("POST", "/v1/vector_stores/vs_1/search"): Match(row("search_vector_store"), ("vs_1",)),
    ("GET", "/v1/models"): Match(row("list_models")),
    ("HEAD", "/v1/models/gpt-4o"): Match(row("retrieve_model"), model="gpt-4o"),
    ("DELETE", "/v1/models/ft:gpt-4o:acme::a1"): Match(row("delete_model"), model="ft:gpt-4o:acme::a1"),
    ("GET", "/v1/models/@vllm/meta-llama/Llama-3.1-8B"): Match(
        row("retrieve_model"), model="@vllm/meta-llama/Llama-3.1-8B"
    ),
    ("GET", "/v1/health"): Match(row("health")),
    ("GET", "/"): Match(row("health")),
    ("GET", ""): Match(row("health")),
    ("HEAD", "/"): Match(row("health")),
}


@pytest.mark.parametrize("method,path", FOUND)
def test_method_and_path_name_an_operation(method, path):
    found = route(method, path)
    assert (found.route.operation, *found[1:]) == (FOUND[method, path].route.operation, *FOUND[method, path][1:])


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/files/", "/v1//files", "//v1/files", "/V1/files", "/v1/Files", "/v2/files", "v1/files",
     "/v1/files/a/", "/v1/files//content", "/v1/files/a/b", "/v1/files/a/content/", "/v1/files/a/contents",
     "/v1/filesx", "/health", "*", "/v1/files/a/b/content", "//", "/v1/chat", "/v1/chat/completions/", "/v1/models/",
         "/v1/files?limit=1",
     "/v1/health/", "https://a/v1/files"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH"])
def test_any_other_path_is_404_with_any_method(method, path):
    with pytest.raises(NotFound):
        route(method, path)


def test_path_without_a_version_is_404_with_a_hint_to_the_base_url():
    with pytest.raises(NotFound, match="/v1"):
        route("GET", "/files/file-1")
    with pytest.raises(NotFound) as refused:
        route("GET", "/<script>")
    assert "script" not in refused.value.message


ALLOW = {
    "/v1/files": "POST, GET, HEAD",
    "/v1/files/file-1": "GET, HEAD, DELETE",
    "/v1/files/file-1/content": "GET, HEAD",
    "/v1/health": "GET, HEAD",
    "/": "GET, HEAD",
    "/v1/models": "GET, HEAD",
    "/v1/models/a/b": "GET, HEAD, DELETE",
    "/v1/vector_stores/vs_1": "GET, HEAD, POST, DELETE",
}


@pytest.mark.parametrize("path", ALLOW)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "", "GET ", "POST\r\n"])
def test_any_other_method_is_405_with_allow(method, path):
    with pytest.raises(MethodNotAllowed) as refused:
        route(method, path)
    assert refused.value.headers == {"allow": ALLOW[path]}


@pytest.mark.parametrize("path", sorted({row.path for row in ROUTES if row.method == "GET"}))
def test_head_is_accepted_wherever_get_is(path):
    assert route("HEAD", path.replace(":id", "a")) == route("GET", path.replace(":id", "a"))


GOOD_IDS = [
    "file-1",
    "a",
    "a" * 128,
    "file_011CNha8iCJcU1wXNR6q4V8w",
    "...",
    "a..b",
    ".a",
    "-",
    "_",
    "0",
    "A.B-C_d",
]
BAD_IDS = [".", "..", "a" * 129, "a b", "a\0", "a\n", "\n", "é", "a?b", "a#b", "a%2fb", "a\\b", "a:b", ":id", "a@b",
           "a;b", "a+b", "a*", "٣", "ａ", "a\r\nb", "a&b", "a=b", "~a", "a,b", "'", '"', "<a>"]  # fmt: skip


@pytest.mark.parametrize("file_id", GOOD_IDS)
def test_id_that_a_provider_may_have_issued_is_accepted_unchanged(file_id):
    assert checked_id(file_id) == file_id
    assert route("GET", f"/v1/files/{file_id}/content").id == file_id


@pytest.mark.parametrize("file_id", BAD_IDS)
def test_id_that_could_change_a_url_is_400_and_not_quoted(file_id):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        with pytest.raises(BadRequest) as refused:
            route(method, f"/v1/files/{file_id}{path}")
        assert refused.value.param == "id"
        assert len(file_id) < 4 or file_id not in refused.value.message


def test_empty_id_is_refused():
    with pytest.raises(BadRequest):
        checked_id("")


def test_error_about_a_bad_id_names_its_parameter():
    with pytest.raises(BadRequest) as refused:
        checked_id("../x", "after")
    assert refused.value.param == "after"


def test_wrong_method_is_reported_before_a_bad_id():
    with pytest.raises(MethodNotAllowed):
        route("PUT", "/v1/files/..")


BAD_MODELS = ["..", ".", "a/../b", "a/./b", "/a", "a/", "a//b", "a b", "a?b", "a#b", "a%2fb", "a\\b", "é", "a\r\nb",
              "a\0", "a" * 129, "/".join("abcdefghi"), "a;b", "@vllm/../files", "<a>", "a&b"]  # fmt: skip


@pytest.mark.parametrize("model", BAD_MODELS)
def test_model_that_could_change_a_url_is_400_and_not_quoted(model):
    with pytest.raises(BadRequest) as refused:
        route("GET", f"/v1/models/{model}")
    assert refused.value.param == "model" and (len(model) < 4 or model not in refused.value.message)


@pytest.mark.parametrize(
    "path", ["/v1/containers/a/files/:id", "/v1/containers/:id/files/a", "/v1/containers/a/files/.."]
)
def test_each_id_of_a_path_is_checked(path):
    with pytest.raises(BadRequest) as refused:
        route("GET", path)
    assert refused.value.param == "id"


def test_path_of_a_call_has_each_id_in_its_place():
    assert route("GET", "/v1/containers/a/files/b/content").path == "/containers/a/files/b/content"
    assert route("GET", "/v1/models/ft:id/:id").path == "/models/ft:id/:id"


@pytest.mark.parametrize("path", ["/files", "/chat/completions", "/responses/r", "/models", "/vector_stores/a/files"])
def test_path_without_the_version_says_where_a_base_url_ends(path):
    with pytest.raises(NotFound, match="base URL of a client ends in /v1"):
        route("GET", path)


def test_other_paths_are_unknown_and_no_more():
    for path in ("/nothing", "/v1/nothing", "/v2/files", "/index.html"):
        with pytest.raises(NotFound) as caught:
            route("GET", path)
        assert caught.value.message == "No such route."
