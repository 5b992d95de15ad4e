"""`raft watch`: a page that follows the run, for this machine alone."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import toy_runs
from wording import words

from raft import run as run_raft
from raft.report.watch import Live, serve_live
from rollout.errors import InputError

pytest_plugins = ["report_fixtures"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("watched")
    return run_raft(toy_runs.settings(root, iterations=1)).run_dir


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    with serve_live(run, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_the_page_is_the_report_and_changes_with_the_run(run: Path, address: str) -> None:
    first = httpx.get(f"{address}/state").json()
    assert httpx.get(f"{address}/state").json() == first  # nothing happened
    page = httpx.get(f"{address}/page").text
    assert page.startswith("<!doctype html>") and '"iteration":1' in page.replace(" ", "")
    row = {**json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]), "iteration": 2}
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    assert httpx.get(f"{address}/state").json()["version"] == first["version"] + 1
    assert '"iteration":2' in httpx.get(f"{address}/page").text.replace(" ", "")
    assert 'src="/page"' in httpx.get(address).text
    assert httpx.get(f"{address}/metrics.jsonl").status_code == 404


def test_other_names_for_this_machine_get_nothing(address: str) -> None:
    """A site may point its own name at 127.0.0.1 to read what a browser here may read."""
    assert httpx.get(f"{address}/page", headers={"Host": "evil.example:80"}).status_code == 403


def test_a_run_that_has_not_begun_is_waited_for(tmp_path: Path) -> None:
    live = Live(tmp_path / "later")
    version, page = live.page()
    assert b"no such run folder" in page and live.said.startswith("waiting")
    toy_runs.settings(tmp_path)
    run_raft(toy_runs.settings(tmp_path, run_dir=str(tmp_path / "later"), iterations=0))
    assert live.page()[0] == version + 1 and b"waiting" not in live.page()[1][:200]


def test_a_port_that_is_taken_is_told(run: Path) -> None:
    with serve_live(run, 0) as server, pytest.raises(InputError, match=words("--port another")):
        serve_live(run, server.server_address[1])


@pytest.mark.slow
def test_a_browser_follows_the_run_where_the_reader_is(
    run: Path, address: str, chromium: Any
) -> None:
    tab = chromium.new_context().new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(address)
    page = tab.frame_locator("#page")
    page.locator("#curves figure").first.wait_for()
    tab.wait_for_function("document.getElementById('said').textContent.includes('page ')")
    first = tab.locator("#said").inner_text()
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({**row, "iteration": row["iteration"] + 1}) + "\n")
    tab.wait_for_function(
        "first => document.getElementById('said').textContent !== first", arg=first
    )
    page.locator("#curves figure").first.wait_for()
    last = f"iteration {row['iteration'] + 1}"
    page.locator("#curves figure .when", has_text=last).first.wait_for()
    assert wrong == []


@pytest.mark.slow
def test_a_reader_who_leaves_is_no_error(
    run: Path, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = address.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reader.sendall(f"GET /page HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    assert httpx.get(f"{address}/page").status_code == 200
    assert "Exception occurred" not in capfd.readouterr().err
