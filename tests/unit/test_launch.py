"""The server's life, played by a small stand-in for tritonserver: what it is told, how it is watched, what is left after it."""

import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from serve import reap_orphans
from waiting import wait_until

from ananke_server import launch, session
from ananke_server.cores import physical
from ananke_server.launch import (
    LaunchError,
    Triton,
    TritonServer,
    find_triton,
    resolve_model,
)
from ananke_server.ports import free_ports
from ananke_server.session import Session, read_process

READY = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(option("http-port"))), Handler).serve_forever()
"""
# A helper in a process group of its own, and a shared memory region, both abandoned.
LITTER = """
import mmap, subprocess
kept = []
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
for name in sys.argv[0].rpartition("/")[2] + "-mapped", option("backend-config").partition("shm-region-prefix-name=")[2] + "region":
    file = open("/dev/shm/" + name, "w+b")
    file.truncate(4096)
    kept.append(mmap.mmap(file.fileno(), 4096))
"""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a server of the given code, its ports free and its log under tmp_path."""
    monkeypatch.setattr(session, "STRAGGLERS_SECONDS", 0.3)

    def make(code: str) -> TritonServer:
        binary = tmp_path / f"tritonserver-{os.getpid()}-{time.monotonic_ns()}"
        options = "import sys\ndef option(name): return next(a.partition('=')[2] for a in sys.argv if a.startswith('--' + name))\n"
        binary.write_text(f"#!{sys.executable}\n{options}{code}")
        binary.chmod(0o755)
        for folder in ("backends", "models"):
            (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.setenv("TRITONSERVER", str(binary))
        monkeypatch.setenv("TRITON_BACKENDS", str(tmp_path / "backends"))
        http, grpc, metrics = free_ports(3)
        return TritonServer([tmp_path / "models"], http, grpc, metrics, log_file=tmp_path / "server.log")

    yield make
    for abandoned in Path("/dev/shm").glob(f"tritonserver-{os.getpid()}-*"):
        abandoned.unlink()


def installation(root: Path) -> Triton:
    binary = root / "bin" / "tritonserver"
    for folder in (binary.parent, root / "backends"):
        folder.mkdir(parents=True)
    binary.touch(mode=0o755)
    return Triton(binary, root / "backends")


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


class TestLife:
    def test_ready_then_stopped(self, stand_in):
        with stand_in(READY) as server:
            server.wait_until_ready(timeout=20)
            assert server.running
            session = server.session
        assert not server.running
        assert session.members() == []

    @pytest.mark.skipif(len(physical(os.sched_getaffinity(0))) < 2, reason="one core cannot be kept of one")
    def test_it_keeps_off_the_cores_that_are_the_engines(self, stand_in, monkeypatch):
        before = os.sched_getaffinity(0)
        monkeypatch.setenv("ANANKE_ENGINE_CORES", "1")
        with stand_in(f"import os; print(*os.sched_getaffinity(0)); print(os.environ['ANANKE_CORES_KEPT'], flush=True){READY}") as server:
            server.wait_until_ready(timeout=20)
            left, kept = server.log_file.read_text().splitlines()
        assert set(map(int, left.split())) == before - set(map(int, kept.split(","))) != before
        assert os.sched_getaffinity(0) == before

    def test_more_cores_for_the_engine_than_there_are_end_the_start(self, stand_in, monkeypatch):
        monkeypatch.setenv("ANANKE_ENGINE_CORES", "4096")
        with pytest.raises(LaunchError, match=r"engine_cores is 4096, and of \d+ cores one has to be left: set it to \d+ at most"):
            stand_in(READY).start()

    def test_cores_are_chosen_for_all_gpus_of_the_engine(self, stand_in, monkeypatch):
        monkeypatch.setattr(launch, "to_keep", lambda asked, workers: chosen.append((asked, workers)) or set())
        chosen: list[tuple[int | None, int]] = []
        monkeypatch.setenv("ANANKE_TENSOR_PARALLEL_SIZE", "2")
        monkeypatch.setenv("ANANKE_PIPELINE_PARALLEL_SIZE", "3")
        with stand_in("import os; print(repr(os.environ['ANANKE_CORES_KEPT']), flush=True)" + READY) as server:
            server.wait_until_ready(timeout=20)
            assert server.log_file.read_text().splitlines() == ["''"], "whatever this process was told is not passed on"
        assert chosen == [(None, 6)]

    def test_death_is_noticed_with_the_end_of_the_log(self, stand_in):
        server = stand_in("print('loading'); print('no such model'); sys.exit(3)")
        with pytest.raises(LaunchError, match=r"ended with status 3 before it was ready(.|\n)*no such model"), server:
            server.wait_until_ready(timeout=20)

    def test_a_killed_server_is_named_so(self, stand_in):
        server = stand_in("import os; os.kill(os.getpid(), 9)")
        with pytest.raises(LaunchError, match="killed by SIGKILL"), server:
            server.wait_until_ready(timeout=20)

    def test_timeout_calls_progress_and_leaves_it_running(self, stand_in, monkeypatch):
        waited: list[float] = []
        slept: list[float] = []
        with stand_in("import time; time.sleep(600)") as server:
            with monkeypatch.context() as patched:
                patched.setattr(launch, "time", SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append))
                with pytest.raises(LaunchError, match="not ready after 2 s"):
                    server.wait_until_ready(timeout=2.4, progress=waited.append)
            assert server.running
        assert [round(seconds) for seconds in waited] == [1, 2]

    def test_nothing_is_left_even_of_a_deaf_server(self, stand_in):
        before = shared_memory()
        with stand_in(LITTER + DEAF + READY) as server:
            server.wait_until_ready(timeout=20)
            session = server.session
            assert len(session.members()) == 2
            assert len(shared_memory() - before) == 2
            server.stop(grace=0.3)
        assert session.members() == []
        assert not {name for name in shared_memory() - before if "tritonserver-" in name or server.shm_prefix in name}

    def test_a_crashed_servers_helpers_are_ended_too(self, stand_in):
        server = stand_in(LITTER + "import os; os.abort()")
        server.start()
        session = server.session
        with pytest.raises(LaunchError, match="killed by SIGABRT"):
            server.wait_until_ready(timeout=20)
        assert len(session.members()) == 1
        server.stop()
        assert session.members() == []
        assert not [name for name in shared_memory() if server.shm_prefix in name]

    def test_it_can_be_started_again_but_not_twice(self, stand_in):
        server = stand_in(READY)
        for _ in range(2):
            with server:
                server.wait_until_ready(timeout=20)
                with pytest.raises(LaunchError, match="started before"):
                    server.start()
        server.stop()

    def test_a_taken_port_is_refused(self, stand_in):
        with stand_in(READY) as first:
            first.wait_until_ready(timeout=20)
            second = stand_in(READY)
            second.http_port = first.http_port
            with pytest.raises(LaunchError, match=f"cannot listen on 127.0.0.1:{first.http_port}"):
                second.start()

    def test_shared_memory_that_others_have_mapped_stays(self, stand_in):
        server = stand_in(LITTER + READY)
        with server:
            server.wait_until_ready(timeout=20)
            region = Path("/dev/shm") / f"{Path(os.environ['TRITONSERVER']).name}-mapped"
            with region.open("r+b") as file, mmap.mmap(file.fileno(), 0):
                server.stop(grace=2)
                assert region.exists()


class TestSession:
    def test_a_later_process_of_the_same_number_is_not_ours(self):
        mine = session.read_process(os.getpid())
        assert mine is not None
        assert Session(mine.pid, mine.started + 1, "x").members() == []


class TestArguments:
    def test_every_repository_the_ports_and_an_address_of_this_machine(self, tmp_path):
        server = TritonServer([tmp_path, tmp_path], 1, 2, 3, extra_arguments=["--log-info=0"])
        arguments = server.arguments(installation(tmp_path / "triton"))
        assert arguments.count(f"--model-repository={tmp_path}") == 2
        assert {"--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"} <= set(arguments)
        assert {"--http-port=1", "--grpc-port=2", "--metrics-port=3", "--log-info=0"} <= set(arguments)

    def test_two_servers_share_no_region_name(self):
        assert TritonServer([]).shm_prefix != TritonServer([]).shm_prefix

    def test_a_host_that_is_all_of_the_machine_is_reached_on_loopback(self):
        assert TritonServer([], host="0.0.0.0").http_url == "127.0.0.1:8000"

    def test_a_missing_repository_is_named(self, tmp_path):
        with pytest.raises(LaunchError, match="nowhere is not a folder"):
            TritonServer([tmp_path / "nowhere"]).arguments(installation(tmp_path / "triton"))


class TestEnvironment:
    def test_the_interpreter_comes_first_and_what_is_given_comes_last(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LD_LIBRARY_PATH", "/inherited")
        triton = installation(tmp_path / "triton")
        (tmp_path / "triton" / "lib").mkdir()
        environment = TritonServer([], model=tmp_path, environment={"DO_NOT_TRACK": "mine"}).full_environment(triton)
        assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
        assert environment["LD_LIBRARY_PATH"].split(":")[0] == str(tmp_path / "triton" / "lib")
        assert environment["LD_LIBRARY_PATH"].endswith(":/inherited")
        assert environment["DO_NOT_TRACK"] == "mine"
        assert environment["VLLM_NO_USAGE_STATS"] == "1"

    def test_a_local_model_needs_no_hub_and_a_named_one_does(self, tmp_path, monkeypatch):
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        triton = installation(tmp_path / "triton")
        local = TritonServer([], model=tmp_path).full_environment(triton)
        named = TritonServer([], model="owner/name").full_environment(triton)
        assert (local["ANANKE_MODEL"], local["HF_HUB_OFFLINE"]) == (str(tmp_path), "1")
        assert named["ANANKE_MODEL"] == "owner/name"
        assert "HF_HUB_OFFLINE" not in named

    def test_a_path_to_no_folder_is_no_hubs_name(self):
        with pytest.raises(LaunchError, match="does not exist"):
            resolve_model("./nowhere")


class TestFindTriton:
    def test_what_is_named_wins_over_what_setup_made(self, tmp_path, monkeypatch):
        named, made = installation(tmp_path / "named"), installation(tmp_path / ".ananke" / "triton")
        monkeypatch.delenv("TRITON_BACKENDS", raising=False)
        monkeypatch.delenv("TRITONSERVER", raising=False)
        assert find_triton(tmp_path) == made
        monkeypatch.setenv("TRITONSERVER", str(named.binary))
        assert find_triton(tmp_path) == named

    def test_path_counts_with_the_backends_named(self, tmp_path, monkeypatch):
        found = installation(tmp_path / "found")
        monkeypatch.delenv("TRITONSERVER", raising=False)
        monkeypatch.setenv("TRITON_BACKENDS", str(found.backends))
        monkeypatch.setenv("PATH", str(found.binary.parent))
        assert find_triton(tmp_path) == found

    def test_a_wrong_name_is_not_passed_over(self, tmp_path, monkeypatch):
        installation(tmp_path / ".ananke" / "triton")
        monkeypatch.setenv("TRITONSERVER", "/nowhere/bin/tritonserver")
        with pytest.raises(LaunchError, match="nowhere"):
            find_triton(tmp_path)


def test_a_container_names_the_projects_folder(tmp_path):
    shown = "from ananke_server.launch import DEFAULT_MODEL, PROJECT; print(PROJECT, DEFAULT_MODEL.is_relative_to(PROJECT))"
    environment = dict(os.environ) | {"ANANKE_HOME": str(tmp_path)}
    output = subprocess.run([sys.executable, "-c", shown], env=environment, capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(tmp_path), "True"]


def test_orphans_are_awaited_and_the_server_is_not():
    server, orphan = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
    try:
        reap_orphans(server.pid)
        assert read_process(orphan.pid) is not None
        orphan.kill()
        wait_until(lambda: read_process(orphan.pid).ended)
        reap_orphans(server.pid)
        assert read_process(orphan.pid) is None
        server.kill()
        wait_until(lambda: read_process(server.pid).ended)
        reap_orphans(server.pid)
        assert server.wait() == -signal.SIGKILL
    finally:
        for process in server, orphan:
            process.kill()
            process.wait()
