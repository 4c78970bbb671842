"""Runs an image's root as a container runtime would: read-only, without rights, in a network alone.

    unshare -mnpf --mount-proc python container.py ROOT CONFIG UID

CONFIG is the image's configuration as JSON. Starts its command, waits until its health check
passes, asks for two vectors, tries to write, stops it, and prints what came of that as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

DEADLINE_S = 120
ASK = """
import json, urllib.request as u
def asked(path, body=None):
    data = json.dumps(body).encode() if body else None
    kind = {"content-type": "application/json"}
    return json.load(u.urlopen(u.Request("http://127.0.0.1:8080" + path, data, kind), timeout=60))
texts = ["A bicycle has two wheels.", "Paris is in France."]
rows = asked("/v1/embeddings", {"model": "builtin", "input": texts})["data"]
print(json.dumps([[sum(x * x for x in row["embedding"]), len(row["embedding"])] for row in rows]))
"""
KERNELS = """
from embedfleet.engines.native.library import load
print(len(load().sets))
"""
WRITE = """
import pathlib
for place in ("/", "/opt/embedfleet", "/tmp"):
    try: pathlib.Path(place, "written").write_text("x")
    except OSError as error: print(error.strerror)
    else: print("written")
"""


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def prepare(root: Path) -> None:
    """What a runtime mounts: the image read-only, an empty /tmp, /proc and a few devices."""
    mount("--bind", str(root), str(root))
    mount("-o", "remount,bind,ro", str(root))
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(root / "tmp"))
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root / "dev"))
    (root / "dev" / "shm").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(root / "dev" / "shm"))
    for name in ("null", "zero", "random", "urandom"):
        (root / "dev" / name).touch()
        mount("--bind", f"/dev/{name}", str(root / "dev" / name))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def main() -> None:
    """Run it; print the findings."""
    root, config, uid = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
    prepare(root)
    # As Docker and Kubernetes set it for a user that is in no list.
    environment = dict(each.split("=", 1) for each in config["Env"]) | {"HOME": "/"}
    inside = ["chroot", str(root), "/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}"]
    inside += ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*inside, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    found: dict[str, object] = {}
    command = [*config["Entrypoint"], *config["Cmd"]]
    served = subprocess.Popen(
        [*inside, *command], env=environment, stderr=subprocess.PIPE, text=True
    )
    check = config["Healthcheck"]["Test"][1:]
    deadline = time.monotonic() + DEADLINE_S
    while (healthy := run(*check)).returncode and served.poll() is None:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    found["healthy"] = healthy.returncode
    answer = run("python", "-c", ASK)
    found["vectors"] = json.loads(answer.stdout) if answer.returncode == 0 else answer.stderr
    found["written"] = run("python", "-c", WRITE).stdout.splitlines()
    kernels = run("python", "-c", KERNELS)
    found["kernels"] = kernels.stdout.strip() or kernels.stderr
    status = Path(f"/proc/{served.pid}/status").read_text(encoding="utf-8")
    found["uid"] = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    served.terminate()
    try:
        _, errors = served.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        served.kill()
        _, errors = served.communicate()
    found["exit"] = served.returncode
    found["log"] = errors[-3000:]
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
