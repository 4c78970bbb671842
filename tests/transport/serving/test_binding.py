"""Where a server listens: families, several addresses, Unix sockets, several processes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from embedfleet.runtime.settings.addresses import Place, places
from embedfleet.transport.serving import AddressTakenError, bind, listening
from embedfleet.vocabulary import SetupError

HERE = Place("127.0.0.1", 0)


def reaches(address: str | tuple[str, int]) -> bool:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(60)
        return client.connect_ex(address) == 0


def test_several_addresses_have_one_free_port() -> None:
    with listening(places("127.0.0.1,127.0.0.2", 0)) as ((one, two),):
        assert one.getsockname() == ("127.0.0.1", two.getsockname()[1])
        assert reaches(one.getsockname())
        assert reaches(two.getsockname())


def test_sockets_are_closed_and_files_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with listening([HERE, Place("", 0, path)]) as ((tcp, _),):
        address = tcp.getsockname()
        assert reaches(str(path))
        assert path.stat().st_mode & 0o777 == 0o660
    assert not reaches(address)
    assert not path.exists()


def test_processes_share_an_address_and_the_system_spreads_connections() -> None:
    with listening([HERE], processes=3) as processes:
        (address,) = {each.getsockname() for (each,) in processes}
        clients = [socket.create_connection(address, 20) for _ in range(100)]
        found = []
        for (each,) in processes:
            count = 0
            while True:
                try:
                    each.accept()[0].close()
                except BlockingIOError:
                    break
                count += 1
            found.append(count)
        for client in clients:
            client.close()
    assert sum(found) == 100
    assert all(found)


def test_processes_share_one_unix_socket(tmp_path: Path) -> None:
    with listening([Place("", 0, tmp_path / "s")], processes=2) as ((one,), (two,)):
        assert one is two


@pytest.mark.parametrize("processes", [1, 3])
def test_an_address_that_is_taken_is_an_error_also_for_processes_that_share_one(
    processes: int,
) -> None:
    with listening([HERE], processes=2) as ((first,), _):
        taken = Place(*first.getsockname())
        with (
            pytest.raises(AddressTakenError, match=f"can't listen on {taken}: "),
            listening([taken], processes),
        ):
            raise AssertionError


def test_no_other_process_gets_the_port_while_workers_get_their_sockets() -> None:
    """The first socket is never let go of."""
    with listening([HERE], processes=2) as ((first,), _), pytest.raises(AddressTakenError):
        bind(*first.getsockname())


def test_what_a_killed_process_left_is_replaced_and_what_lives_is_not(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with (
        listening([Place("", 0, path)]),
        pytest.raises(AddressTakenError),
        listening([Place("", 0, path)]),
    ):
        raise AssertionError
    path.write_text("somebody's")
    with pytest.raises(SetupError, match="not a socket"), listening([Place("", 0, path)]):
        raise AssertionError
    assert path.read_text() == "somebody's"


def test_the_file_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with listening([Place("", 0, path)]):
        path.rename(tmp_path / "old")
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.exists()


def test_a_failure_leaves_nothing_open(tmp_path: Path) -> None:
    with listening([HERE]) as ((busy,),):
        taken = Place(*busy.getsockname())
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(AddressTakenError), listening([HERE, taken], processes=2):
            raise AssertionError
        assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("hosts", "complaint"),
    [
        ("", "an address is empty"),
        ("127.0.0.1,", "an address is empty"),
        ("unix:http.sock", "no absolute path"),
        ("::1,::1", "is listed twice"),
        ("a..b", "neither an address nor the name of a host"),
        (f"{'a' * 64}.example", "neither an address nor the name of a host"),
        ("127.0.0.1,\udcff", "neither an address nor the name of a host"),
        ("a b", "neither an address nor the name of a host"),
    ],
)
def test_addresses_that_can_not_be_are_refused(hosts: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        places(hosts, 8080)


def test_addresses_are_written_with_commas_between() -> None:
    found = places("127.0.0.1, [::1],unix:/run/a.sock", 8080)
    assert list(map(str, found)) == ["127.0.0.1:8080", "[::1]:8080", "unix:/run/a.sock"]
