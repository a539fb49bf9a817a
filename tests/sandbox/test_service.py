"""The HTTP face: refusals, back-pressure, token, health, metrics; and a service that comes up, goes down, and dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from megatron_k15.sandbox.client import SandboxBusyError, SandboxClient, SandboxGoneError
from megatron_k15.sandbox.errors import SandboxError
from megatron_k15.sandbox.local_service import LocalService
from megatron_k15.sandbox.values import Case, Limits, Submission
from tests.sandbox.running_service import RunningService, fresh_uid, processes_of

SLEEP = Submission(language="bash", source="sleep 0.5", limits=Limits(wall_seconds=5))
ROOT = Path(__file__).resolve().parents[2]


def _wait_for(what: str, condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"language": "cobol", "source": ""}, "language must be one of bash, c, .*; got 'cobol'"),
        ({"language": "bash"}, "source: Field required"),
        ({"language": "bash", "source": "", "limit": {}}, "limit: Unexpected keyword argument"),
        ({"language": "bash", "source": "", "cases": []}, "cases must hold at least one case"),
        ({"language": "bash", "source": "", "limits": {"cpu_seconds": "1 s"}}, "limits.cpu_seconds: Input should be"),
        ({"language": "bash", "source": "", "limits": {"wall_seconds": 1e9}}, "limits.wall_seconds must be from"),
        ({"language": "bash", "source": "", "comparison": "fuzzy"}, "comparison: Input should be 'tokens' or 'exact'"),
        ([1], "not a submission"),
    ],
)
def test_what_is_no_submission_is_refused_with_the_rule(
    bubblewrap_service: RunningService, body: object, message: str
) -> None:
    with pytest.raises(SandboxError, match=message):
        bubblewrap_service.client._call("POST", "/v1/run", body, 10)


def test_a_full_queue_refuses_at_once_and_loses_nothing(bubblewrap_service: RunningService) -> None:
    """One slot, four may wait: of ten at once, five are run."""
    with ThreadPoolExecutor(10) as threads:
        futures = [threads.submit(bubblewrap_service.client.run, SLEEP) for _ in range(10)]
        errors = [future.exception() for future in futures]
    assert sum(error is None for error in errors) == 5
    assert sum(isinstance(error, SandboxBusyError) for error in errors) == 5
    assert all(
        future.result().verdict == "accepted" for future, error in zip(futures, errors, strict=True) if not error
    )


def test_health_and_metrics_tell_of_a_running_program(bubblewrap_service: RunningService) -> None:
    client = bubblewrap_service.client
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(client.run, SLEEP)
        _wait_for("a busy slot", lambda: client.health(timeout_seconds=5)["busy"] == 1)
        running.result()
    assert client.health(timeout_seconds=5) == {"status": "ok", "slots": 1, "busy": 0, "waiting": 0}


def _start(*options: str, token: str | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **({"K15_SANDBOX_TOKEN": token} if token else {})}
    command = [sys.executable, "-m", "megatron_k15.sandbox", "--slots", "1", *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_beyond_loopback_it_wants_a_token() -> None:
    with _start("--listen", "0.0.0.0:0") as process:
        assert process.stderr is not None
        assert process.wait(30) == 1
        assert "must have a token: set K15_SANDBOX_TOKEN" in process.stderr.read()


def test_a_token_guards_all_but_health() -> None:
    with _start("--listen", "0.0.0.0:0", "--first-uid", str(fresh_uid()), token="s3cret") as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[2].rstrip(",").replace("0.0.0.0", "127.0.0.1")
        try:
            submission = Submission(language="bash", source="echo hi")
            assert SandboxClient(address, token="s3cret").run(submission).verdict == "accepted"
            for token in (None, "s3cre", "wrong"):
                with pytest.raises(SandboxError, match=r"answered 401: .*Bearer"):
                    SandboxClient(address, token=token).run(submission)
            assert SandboxClient(address).health(timeout_seconds=5)["status"] == "ok"
            request = urllib.request.Request(f"{address}/metrics", headers={"Authorization": "Bearer s3cret"})
            metrics = urllib.request.urlopen(request, timeout=5).read().decode()
            assert 'k15_sandbox_submissions_total{language="bash",verdict="accepted"} 1.0' in metrics
            assert "k15_sandbox_slots 1.0" in metrics
        finally:
            process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--listen", "nowhere"), "--listen must be HOST:PORT or unix:PATH, got 'nowhere'"),
        (("--listen", "127.0.0.1:1", "--languages", "/nowhere.yaml"), "--languages must name a readable YAML file"),
        (
            ("--listen", "127.0.0.1:0", "--package", "no-such-package"),
            "--package no-such-package must name an installed",
        ),
    ],
)
def test_bad_options_end_with_one_line(options: tuple[str, ...], message: str) -> None:
    with _start(*options) as process:
        assert process.stderr is not None
        assert process.wait(30) == 1
        assert message in process.stderr.read()


@pytest.mark.parametrize("backend", ["bubblewrap", "crun"])
@pytest.mark.parametrize("killed", ["server", "guardian"])
def test_a_killed_service_leaves_nothing(backend: str, killed: str) -> None:
    """Neither process, cgroup nor directory; what a killed guardian leaves, the next one clears."""
    uid = fresh_uid()
    with LocalService(("--backend", backend, "--slots", "1", "--first-uid", str(uid))) as local:
        client = local.ready()
        assert local.pid
        (server,) = psutil.Process(local.pid).children()
        endless = Submission(
            language="python", source="while True: pass", limits=Limits(cpu_seconds=100, wall_seconds=100)
        )
        failed: list[BaseException] = []

        def run() -> None:
            try:
                client.run(endless)
            except SandboxGoneError as error:
                failed.append(error)

        waiting = threading.Thread(target=run)
        waiting.start()
        _wait_for("the program", lambda: len(processes_of(uid)) >= 1)
        os.kill(server.pid if killed == "server" else local.pid, signal.SIGKILL)
        waiting.join(20)
        assert failed
        if killed == "guardian":
            _wait_for("the server's end", lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
            assert client is local.ready()  # the next guardian clears up
        _wait_for("the programs' end", lambda: processes_of(uid) == [])
        _wait_for("the cgroups' end", lambda: not list(Path("/sys/fs/cgroup").rglob(f"k15-sandbox-*-{server.pid}")))
        _wait_for("the directory's end", lambda: not list(Path("/tmp").glob(f"k15-sandbox-*-{server.pid}-*")))


def test_a_dead_service_is_started_again_and_a_silent_one_is_killed() -> None:
    echo = Submission(language="bash", source="cat", cases=(Case(input="hi", expected="hi"),))
    with LocalService(("--slots", "1", "--first-uid", str(fresh_uid())), hang_timeout_seconds=1.0) as local:
        assert local.ready().run(echo).verdict == "accepted"
        assert local.pid
        (server,) = psutil.Process(local.pid).children()
        guardian = local.pid
        server.suspend()
        _wait_for("the silent service's end", lambda: not psutil.pid_exists(server.pid))
        _wait_for("a new one", lambda: local.ready() is not None and local.pid != guardian)
        assert local.ready().run(echo).verdict == "accepted"
        assert local.num_restarts == 1


def test_a_stopped_service_judges_rightly_when_it_goes_on() -> None:
    """Longer than the program's wall limit: the time in which nobody watched is not the program's."""
    submission = Submission(language="bash", source="sleep 0.7; cat", cases=(Case(input="hi", expected="hi"),))
    uid = fresh_uid()
    with LocalService(("--slots", "1", "--first-uid", str(uid))) as local, ThreadPoolExecutor(1) as threads:
        client = local.ready()
        assert local.pid
        (server,) = psutil.Process(local.pid).children()
        limited = Submission(**{**vars(submission), "limits": Limits(wall_seconds=1.0)})
        running = threads.submit(client.run, limited)
        _wait_for("the program", lambda: len(processes_of(uid)) >= 1)
        tree = [server, *server.children(recursive=True)]
        for process in tree:
            process.suspend()
        time.sleep(1.5)
        for process in tree:
            process.resume()
        assert running.result(20).verdict == "accepted"


def test_two_services_of_one_host_run_programs_as_different_users() -> None:
    """A user's limits (pipes, pending signals) are the kernel's, and would be shared."""
    uid = fresh_uid()
    options = ("--slots", "1", "--first-uid", str(uid))
    with LocalService(options) as one, LocalService(options) as other, ThreadPoolExecutor(2) as threads:
        clients = [one.ready(), other.ready()]
        sleeping = Submission(language="bash", source="sleep 3")
        running = [threads.submit(client.run, sleeping) for client in clients]
        for user in (uid, uid + 1):
            _wait_for(f"a program of user {user}", lambda user=user: len(processes_of(user)) >= 1)
        assert [report.result(20).verdict for report in running] == ["accepted"] * 2


def test_a_service_that_cannot_start_says_why() -> None:
    with LocalService(("--languages", "/nowhere.yaml")) as local, pytest.raises(SandboxError, match=r"nowhere\.yaml"):
        local.ready()


def test_answers_are_json_with_the_documented_names(bubblewrap_service: RunningService) -> None:
    report = bubblewrap_service.run("bash", "echo hi")
    assert json.loads(json.dumps(report.to_json()))["cases"][0]["output"] == "hi\n"


def test_a_token_meant_for_another_sandbox_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K15_SANDBOX_TOKEN", "of the cluster's sandbox")
    with LocalService(("--slots", "1", "--first-uid", str(fresh_uid()))) as local:
        assert local.ready().run(Submission(language="bash", source="echo")).verdict == "accepted"
