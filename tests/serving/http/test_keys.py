"""API keys: only their hashes are kept, only their owners are answered, and no key is written anywhere."""

import json
import logging
import stat

import httpx
import openai
import pytest

from t5x_like.serving.http import keys
from tests.serving.http import servers
from tests.serving.http.servers import MODEL


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "keys.jsonl"


def test_a_new_key_is_known_by_its_hash(path):
    first, second = keys.create(path, "ann"), keys.create(path, "bob")
    assert first != second and len(first) > 40
    text = path.read_text()
    assert first not in text and second not in text and stat.S_IMODE(path.stat().st_mode) == 0o600
    known = keys.Keys.load(path)
    assert (known.owner(first), known.owner(second)) == ("ann", "bob")
    for wrong in ("", first[:-1], first + "x", second[:10] + first[10:], "é", "\udc80"):
        assert known.owner(wrong) is None
    assert first not in repr(known)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "not JSON",
        '{"name": "a"}',
        '{"name": "a", "sha256": "secret"}',
        '["a"]',
        '{"name": 1, "sha256": "' + "0" * 64 + '"}',
    ],
)
def test_a_file_that_has_no_keys_is_refused(text, tmp_path):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ValueError, match=r"keys.*no API key; make one with"):
        keys.Keys.load(tmp_path / "keys")


def test_only_owners_of_keys_are_answered(path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    key = keys.create(path, "ann")
    with servers.serve(keys=keys.Keys.load(path)) as server:
        url = f"http://127.0.0.1:{server.port}"
        with servers.client(server, key) as client:
            assert client.completions.create(model=MODEL, prompt="x").choices[0].text
        for wrong in ("x", key[:-1], key.upper()):
            with servers.client(server, wrong) as client, pytest.raises(openai.AuthenticationError) as caught:
                client.completions.create(model=MODEL, prompt="x")
            assert caught.value.code == "invalid_api_key" and wrong not in str(caught.value.body)
        for place in ("/v1/models", "/metrics", "/nowhere"):
            assert httpx.get(url + place).status_code == 401
            assert httpx.get(url + place, headers={"Authorization": f"Basic {key}"}).status_code == 401
        assert httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert httpx.get(f"{url}/health").status_code == httpx.get(url).status_code == 200
        # With keys, other names of the machine are answered too.
        headers = {"Host": "example.com", "Authorization": f"Bearer {key}"}
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200
    written = caplog.text + "".join(capfd.readouterr()) + json.dumps([record.getMessage() for record in caplog.records])
    assert key not in written
