"""The gateways that are compared: how each is installed, configured and started.

Rivals come from Debian and PyPI, in environments of their own below `build/benchmarks`. One that
can't be installed here is left out, and why is printed. Each gets the settings that a person who
knows it would choose: keep-alive to the replicas, its best policy for uneven work, one core.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.processes import living_children, with_descendants

PLACE = Path(__file__).parents[1] / "build" / "benchmarks"
START_TIMEOUT_S = 120.0
ADMIN_PORT = 8191

Start = Callable[[int, Sequence[int], Path], list[str]]
"""Own port, the replicas' ports, a directory for files: the command that starts a gateway."""


class NotHereError(Exception):
    """A rival can't be installed on this machine."""


@dataclass(frozen=True)
class Contender:
    """One gateway and its setting."""

    name: str
    command: Start
    install: Callable[[], None] = lambda: None
    keyed: bool = False
    """Whether it asks for the key in the file `key`."""

    def key(self, place: Path) -> str:
        """What its clients send; known once its command was made."""
        return (place / "key").read_text().strip() if self.keyed else "none"


def environment(name: str, *installs: Sequence[str]) -> Path:
    """A virtual environment for a rival; NotHereError when pip can't fill it."""
    directory = PLACE / name
    if not (directory / ".installed").exists():
        print(f"installing {name} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        for packages in installs:
            pip = [str(directory / "bin" / "pip"), "install", "--quiet", *packages]
            if subprocess.run(pip, check=False, stderr=subprocess.DEVNULL).returncode:
                raise NotHereError(f"pip can't install {' '.join(packages)}")
        (directory / ".installed").touch()
    return directory / "bin"


def debian(*packages: str, program: str) -> None:
    """Install packages of Debian; NotHereError where that is not possible."""
    if shutil.which(program):
        return
    if not shutil.which("apt-get") or os.geteuid():
        raise NotHereError(f"{program} is not installed (Debian: {' '.join(packages)})")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        raise NotHereError(f"apt-get can't install {' '.join(packages)}")


def _embedfleet(port: int, replicas: Sequence[int], place: Path) -> list[str]:
    # The same text again and again: without a cache, or no replica would be asked.
    return _embedfleet_with("[cache]\nmemory_mib = 0\n", port, replicas, place)


def _embedfleet_in_full(port: int, replicas: Sequence[int], place: Path) -> list[str]:
    keys = place / "keys.json"
    if not keys.exists():
        limits = ("--requests-per-minute", str(10**9), "--tokens-per-minute", str(10**12))
        create = ["keys", "create", "--file", str(keys), "--name", "benchmark", *limits]
        made = subprocess.run(
            [sys.executable, "-m", "embedfleet", *create],
            check=True,
            capture_output=True,
            text=True,
        )
        (place / "key").write_text(made.stdout)
    return _embedfleet_with(f'[access]\nkeys_file = "{keys}"\n', port, replicas, place)


def _embedfleet_with(more: str, port: int, replicas: Sequence[int], place: Path) -> list[str]:
    config = place / "embedfleet.toml"
    accepting = '[gateway]\ninput_ids = "accept"\n'  # ids of the load are no tokenizer's
    config.write_text(f"[admin]\nport = {ADMIN_PORT}\n{more}{accepting}")
    urls = [word for each in replicas for word in ("--replica", f"http://127.0.0.1:{each}")]
    start = [sys.executable, "-m", "embedfleet", "gateway", "--port", str(port)]
    return [*start, "--served-name", "bench", "--config", str(config), *urls]


def _nginx(port: int, replicas: Sequence[int], place: Path) -> list[str]:
    servers = "".join(f"server 127.0.0.1:{each}; " for each in replicas)
    temporary = " ".join(
        f"{kind}_temp_path {place}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = place / "nginx.conf"
    config.write_text(
        f"""daemon off; worker_processes 1; pid {place}/nginx.pid; error_log {place}/nginx.err warn;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 3600s; tcp_nodelay on;
  client_body_buffer_size 256k; client_max_body_size 64m; {temporary}
  upstream replicas {{ least_conn; {servers} keepalive 64; keepalive_requests 100000000; }}
  proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_buffers 16 8k; proxy_buffer_size 16k; proxy_busy_buffers_size 32k;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://replicas; }} }}
}}
"""
    )
    return ["nginx", "-p", str(place), "-c", str(config)]


def _haproxy(port: int, replicas: Sequence[int], place: Path) -> list[str]:
    servers = "\n".join(
        f"  server s{each} 127.0.0.1:{each} check inter 1s fall 1" for each in replicas
    )
    config = place / "haproxy.cfg"
    config.write_text(
        f"""global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 3600s
  timeout server 600s
  timeout http-keep-alive 3600s
  http-reuse always
  option http-keep-alive
  option redispatch
  retries 3
frontend front
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance leastconn
{servers}
"""
    )
    return ["haproxy", "-db", "-f", str(config)]


def _install_sglang_router() -> None:
    environment(
        "sglang-router",
        ["--no-deps", "sglang-router==0.3.2"],
        ["setproctitle", "aiohttp", "fastapi", "orjson", "uvicorn"],
    )


def _sglang_router(port: int, replicas: Sequence[int], _place: Path) -> list[str]:
    program = [str(PLACE / "sglang-router" / "bin" / "python"), "-m"]
    urls = [f"http://127.0.0.1:{each}" for each in replicas]
    return [
        *(*program, "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(port)),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(port + 1000)),
        *("--log-level", "warn", "--policy", "power_of_two", "--worker-urls", *urls),
    ]


def _install_litellm() -> None:
    environment("litellm", ["litellm[proxy]", "httptools"])


def _litellm(port: int, replicas: Sequence[int], place: Path) -> list[str]:
    models = "".join(
        f"""  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{each}/v1", api_key: none}}
    model_info: {{mode: embedding}}
"""
        for each in replicas
    )
    config = place / "litellm.yaml"
    config.write_text(
        f"""model_list:
{models}router_settings: {{routing_strategy: least-busy, num_retries: 2}}
litellm_settings: {{cache: false, telemetry: false, set_verbose: false}}
"""
    )
    program = str(PLACE / "litellm" / "bin" / "litellm")
    return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


IN_FULL = Contender("embedfleet", _embedfleet_in_full, keyed=True)
"""With a cache, keys and limits: what others have no part of."""

CONTENDERS = {
    each.name: each
    for each in (
        Contender("embedfleet", _embedfleet),
        Contender("nginx", _nginx, lambda: debian("nginx-light", program="nginx")),
        Contender("haproxy", _haproxy, lambda: debian("haproxy", program="haproxy")),
        Contender("sglang-router", _sglang_router, _install_sglang_router),
        Contender("litellm", _litellm, _install_litellm),
    )
}


class Running:
    """A process with its children, on one core."""

    def __init__(self, command: Sequence[str], core: int, log: Path) -> None:
        self._log = log
        quiet = {
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            # It refuses to start without a key; the others here check none either.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        with log.open("w") as sink:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdout=sink,
                stderr=sink,
                env=os.environ | quiet,
            )

    @property
    def cpu_s(self) -> float:
        """Processor seconds used by the process and its children so far."""
        used = 0.0
        for each in with_descendants(self.process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                used += times.user + times.system
        return used

    @property
    def memory_mib(self) -> float:
        held = 0
        for each in with_descendants(self.process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                held += each.memory_info().rss
        return held / 2**20

    def wait_until_it_answers(
        self, url: str, body: bytes | None = None, key: str = "none"
    ) -> bytes:
        """Return the answer of the first request that succeeds."""
        deadline = time.monotonic() + START_TIMEOUT_S
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        while True:
            try:
                request = urllib.request.Request(url, body, headers)  # noqa: S310
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                    content: bytes = answer.read()
                    return content
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise NotHereError(f"it did not start:\n{self._log.read_text()}") from None
                time.sleep(0.2)

    def kill(self) -> None:
        """Kill -9, as a node that dies."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            children = living_children(self.process.pid, recursive=True)
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
