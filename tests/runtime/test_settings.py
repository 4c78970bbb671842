"""Which source of a setting wins, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.runtime.settings import (
    EngineSettings,
    Option,
    Pool,
    Settings,
    as_markdown,
    as_toml,
    effective,
    load,
    options,
    trace,
)
from embedfleet.runtime.settings.converting import UnfitError, convert
from embedfleet.runtime.settings.rendering import shown
from embedfleet.vocabulary import Precision, SettingError

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
LONE = [option for option in options().values() if option.area != "pools"]


def refusal(
    toml: str | None = None,
    environment: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
) -> str:
    """The message with which these sources are refused."""
    with pytest.raises(SettingError) as raised:
        load(toml, environment or {}, flags or {})
    return str(raised.value)


# -- precedence --------------------------------------------------------------------------


def test_defaults_alone_are_valid_and_name_no_pool() -> None:
    assert load(None, {}, {}) == Settings()


def test_flags_win_over_variables_over_the_file_over_defaults() -> None:
    toml, environment = "[gateway]\nport = 1", {"EMBEDFLEET_GATEWAY_PORT": "2"}
    seen = [
        trace(None, {}, {}),
        trace(toml, {}, {}),
        trace(toml, environment, {}),
        trace(toml, environment, {"gateway.port": "3"}),
    ]
    assert [(settings.gateway.port, origin["gateway.port"]) for settings, origin in seen] == [
        (8080, "default"),
        (1, "file"),
        (2, "EMBEDFLEET_GATEWAY_PORT"),
        (3, "flag --port"),
    ]


def test_a_flag_without_a_value_counts_as_absent() -> None:
    assert load("[gateway]\nport = 1", {}, {"gateway.port": None}).gateway.port == 1


@given(st.data())
def test_every_option_takes_the_value_of_its_strongest_source(data: st.DataObject) -> None:
    option = data.draw(st.sampled_from([each for each in LONE if each.path not in TIED]))
    values = st.none() | values_of(option)
    file, variable, flag = data.draw(st.tuples(values, values, values))
    toml = None if file is None else f"[{option.area}]\n{option.name} = {literal(file)}"
    environment = {} if variable is None else {option.variable: shown(option, variable)}
    if environment.get(option.variable) == "":
        variable = None  # as if it were not set
    settings, origin = trace(toml, environment, {option.path: flag})
    given = [
        (option.default, "default"),
        (file, "file"),
        (variable, option.variable),
        (flag, f"flag {option.rule.flag or option.path}"),
    ]
    strongest = [(value, source) for value, source in given if value is not None] or given[:1]
    held = getattr(getattr(settings, option.area), option.name)
    assert (held, origin[option.path]) == strongest[-1]


# -- one pool, several pools -------------------------------------------------------------


def test_variables_and_flags_fill_the_first_pool() -> None:
    environment = {"EMBEDFLEET_POOL_MODEL": "builtin", "EMBEDFLEET_POOL_SERVED_NAMES": "a, b"}
    settings = load(None, environment, {"pools.replicas": "1"})
    assert settings.pools == (Pool(model="builtin", served_names=("a", "b"), replicas=1),)


def test_flags_add_to_the_one_pool_of_the_file() -> None:
    settings = load('[[pools]]\nmodel = "builtin"', {}, {"pools.served_names": ["a"]})
    assert settings.pools == (Pool(model="builtin", served_names=("a",)),)


def test_several_pools_come_from_the_file_alone() -> None:
    toml = '[[pools]]\nmodel = "a"\n[[pools]]\nmodel = "b"\nprecision = "int8"'
    assert [pool.precision for pool in load(toml, {}, {}).pools] == [None, Precision.INT8]
    assert "EMBEDFLEET_POOL_MODEL is for a single pool, but the settings file names 2" in refusal(
        toml, {"EMBEDFLEET_POOL_MODEL": "c"}
    )
    assert "flag --replicas is for a single pool" in refusal(toml, flags={"pools.replicas": 1})


def test_a_pool_of_remote_replicas_starts_none_here_unless_configured() -> None:
    attached = {"pools.replica_urls": ["http://10.0.0.5:9000"]}
    assert load(None, {}, attached).pools[0].replicas == 0
    both = attached | {"pools.model": "builtin", "pools.replicas": 1}
    assert load(None, {}, both).pools[0].replicas == 1


def test_a_process_of_one_model_asks_for_exactly_one_pool() -> None:
    pool = Pool(model="builtin")
    assert Settings(pools=(pool,)).only_pool() is pool
    with pytest.raises(SettingError, match="no model given"):
        Settings().only_pool()
    with pytest.raises(SettingError, match="name 2"):
        Settings(pools=(pool, pool)).only_pool()


# -- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "environment", "said"),
    [
        ("[gatway]", {}, "[gatway] in the settings file is unknown; did you mean gateway?"),
        ("max_body_bytes=1", {}, "max_body_bytes in the settings file is unknown; did you mean ga"),
        ("[gateway]\nprot=1", {}, "gateway.prot in the settings file is unknown; did you mean po"),
        ("[[pools]]\nmodle='a'", {}, "pools[0].modle in the settings file is unknown; did you me"),
        ("[access]\ntls_key='a'", {}, "did you mean gateway.tls_key or admin.tls_key?"),
        (None, {"EMBEDFLEET_GATEWAY_PROT": "1"}, "did you mean EMBEDFLEET_GATEWAY_PORT?"),
        (None, {"EMBEDFLEET_POOLS_MODEL": "a"}, "did you mean EMBEDFLEET_POOL_MODEL?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(
    toml: str | None, environment: dict[str, str], said: str
) -> None:
    assert said in refusal(toml, environment)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('port = "80"', '"80" is not a whole number from 0 to 65,535'),
        ("port = 80.0", "80.0 is not a whole number"),
        ("port = true", "True is not a whole number"),
        ("port = -1", "-1 is not a whole number from 0"),
        ("request_timeout_s = nan", "nan is not a number from 0.001 to 86,400"),
        ("request_timeout_s = inf", "inf is not a number"),
        ("host = 1", "1 is not a string"),
        ('host = ["0.0.0.0"]', '["0.0.0.0"] is not a string'),
        ('on_error = ["item", "x"]', '["item", "x"] is not one of request, item'),
    ],
)
def test_a_wrong_value_in_the_file_is_refused_with_what_would_be_right(
    setting: str, said: str
) -> None:
    assert said in refusal(f"[gateway]\n{setting}")


@pytest.mark.parametrize("number", ["inf", f"1{'0' * 400}"])
def test_a_number_that_no_float_holds_is_refused_wherever_one_is_wanted(number: str) -> None:
    """A setting without an upper bound takes no infinity either."""
    wait = refusal(f"[fleet]\nno_replica_timeout_s = {number}")
    weights = refusal(f"[[pools]]\nreplica_weights = [{number}]")
    assert "is not a number of at least 0.001, or off" in wait
    assert "is not a list of numbers" in weights


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GATEWAY_PORT", "http", '"http" is not a whole number'),
        ("ENGINE_DTYPE", "f64", '"f64" is not one of auto, f32, bf16, fp8, int8'),
        ("ENGINE_DTYPE", "f16", "overflows in it (the 8B gives NaN for any text"),
        ("ENGINE_THREADS", "0", '"0" is not a whole number from 1 to 1,024, or auto'),
        ("REPLICA_EXIT_WITH_PARENT", "perhaps", '"perhaps" is not true or false'),
        ("POOL_PRECISION", "f64", '"f64" is not one of f32, bf16, fp8, int8, auto'),
        ("POOL_SERVED_NAMES", "a,,b", '"a,,b" is not a list of strings'),
    ],
)
def test_a_wrong_value_in_a_variable_names_the_variable(
    variable: str, value: str, said: str
) -> None:
    message = refusal(None, {f"EMBEDFLEET_{variable}": value})
    assert message.startswith(f"environment variable EMBEDFLEET_{variable}: ")
    assert said in message


def test_an_empty_variable_is_no_variable_but_for_what_protects_something() -> None:
    """Compose's `${VARIABLE:-}` gives one for every setting; a lost secret gives one too."""
    for option in options().values():
        given = {option.variable: ""}
        if option.rule.guards:
            assert f"{option.variable} is empty, and without it" in refusal(None, given)
        else:
            assert load("[gateway]\nport = 1", given, {}) == load("[gateway]\nport = 1", {}, {})
    guarding = {option.path for option in options().values() if option.rule.guards}
    assert {"access.keys_file", "admin.key_file", "gateway.tls_key"} <= guarding


def test_the_name_of_a_flag_is_a_hint_at_its_variable() -> None:
    assert "did you mean EMBEDFLEET_GATEWAY_PORT?" in refusal(None, {"EMBEDFLEET_PORT": "1"})
    assert "did you mean EMBEDFLEET_POOL_MODEL?" in refusal(None, {"EMBEDFLEET_MODEL": "a"})


@pytest.mark.parametrize("given", ["http://a:1", "http://a:1/", "http://a:1/v1", "http://a:1/v1/"])
def test_a_base_url_of_openai_s_clients_names_the_same_replica(given: str) -> None:
    (pool,) = load(f"[[pools]]\nreplica_urls = ['{given}']", {}, {}).pools
    assert pool.replica_urls == ("http://a:1",)


def test_a_file_that_is_no_toml_is_refused_with_its_line() -> None:
    assert "line 2" in refusal("[gateway]\nport = \n")


def test_areas_are_tables_and_pools_are_a_list_of_them() -> None:
    assert "[gateway]" in refusal("gateway = 1")
    assert "[[pools]]" in refusal("[pools]\nmodel = 'a'")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[admin]\nport = 8080", "gateway.port and admin.port are both 8080"),
        ("[admin]\nhost = '0.0.0.0'", "without a key: set admin.key_file, or admin.open = true"),
        (
            "[gateway]\ntls_key = '/k'",
            "gateway.tls_key is given and gateway.tls_certificate is not",
        ),
        ("[admin]\ntls_certificate = '/c'", "admin.tls_key is not: HTTPS needs both"),
        ("[gateway]\ncors_origins = ['https://a.org/']", "is not an origin such as"),
        ("[gateway]\ncors_origins = ['a.org']", "is not an origin such as"),
        ("[gateway]\ncors_origins = ['https://a.org:443']", "is never sent"),
        ("[gateway]\ncors_origins = ['http://中国.example']", "is never sent"),
        ("[gateway]\ncors_origins = ['HTTPS://a.org']", "is not an origin such as"),
        ("[gateway]\ncors_origins = ['https://a.*.org']", "is not an origin such as"),
        ("[gateway]\nmax_queued_bytes = 1", "the largest request would never be admitted"),
        ("[gateway]\nmax_queued_tokens = 9\n[engine]\nmax_tokens = 10", "gateway.max_queued_tok"),
        ("[replica]\nmax_queued_tokens = 9\n[engine]\nmax_tokens = 10", "replica.max_queued_tok"),
        ("[fleet]\nrestart_backoff_s = 60", "fleet.restart_backoff_ceiling_s (30) is below"),
        ("[[pools]]\nreplicas = 1", "pools[0]: replicas are to be started here, but no model"),
        ("[[pools]]\nmodel = 'a'\nreplicas = 0", "it has no replicas"),
        ("[autoscaling]\nmax_replicas = 1", "autoscaling.min_replicas (2) is above"),
        ("[autoscaling]\nenabled = true\nmin_replicas = 0", "give at least 1"),
        (
            (
                "[autoscaling]\nenabled = true\n"
                "[[pools]]\nmodel = 'a'\nreplicas = 1\nreplica_urls = ['http://a']"
            ),
            "give it a pool of its own",
        ),
        ("[cache]\nredis_url = 'localhost:6379'", "cache.redis_url must begin with redis://"),
        (
            "[cache]\nredis_url = 'redis://:secret@localhost'",
            "put it into a file, cache.redis_password_file",
        ),
        ("[cache]\nredis_url = 'redis://[::1'", "cache.redis_url: Invalid IPv6 URL"),
        (
            "[cache]\nredis_url = 'redis://localhost?password=secret'",
            "put it into a file, cache.redis_password_file",
        ),
        (
            "[cache]\nredis_url = 'redis://localhost/vectors'",
            'ends in "/vectors": what follows the address is the number of a database',
        ),
        (
            "[cache]\nredis_url = 'redis://localhost'\nredis_ca_file = '/ca'",
            "let cache.redis_url begin with rediss://",
        ),
        ("[cache]\nredis_cluster = true", "cache.redis_url is off"),
        (
            "[cache]\nredis_url = 'redis://m/0'\nredis_sentinels = ['10.0.0.7']",
            '"10.0.0.7" is not an address such as 10.0.0.7:26379',
        ),
        (
            "[cache]\nredis_url = 'redis://m:6379/0'\nredis_sentinels = ['10.0.0.7:26379']",
            "cache.redis_url names the primary as the Sentinels do",
        ),
        ("[[pools]]\nmodel = 'a'\ntokenizer_dir = '/t'", "only for replicas elsewhere"),
        (
            "[[pools]]\nmodel = 'a'\nreplicas = 1\nreplica_service = 'n/s:http'",
            "replicas are pods: replicas must be 0",
        ),
        ("[[pools]]\nmodel = 'a'\nscale_target = 'n/s'", "new pods would never be found"),
        (
            (
                "[autoscaling]\nstandby = 1\n"
                "[[pools]]\nreplica_service = 'n/s:http'\nscale_target = 'n/s'"
            ),
            "autoscaling.standby is for local replicas",
        ),
        ("[[pools]]\nreplica_urls = ['10.0.0.5:9000']", '"10.0.0.5:9000" is not an address'),
        ("[[pools]]\nreplica_urls = ['http://a:port']", "is not an address"),
        ("[[pools]]\nreplica_urls = ['http://a..b:9000']", "is not an address"),
        (f"[[pools]]\nreplica_urls = ['http://{'a' * 64}.example']", "is not an address"),
        ("[[pools]]\nreplica_urls = ['http://a', 'http://b', 'http://a/v1']", "is listed twice"),
        (
            "[engine]\ndtype = 'int8'\n[[pools]]\nmodel = 'a'\nprecision = 'f32'",
            "it promises f32, which engine.dtype int8 can't keep",
        ),
        (
            "[[pools]]\nmodel = 'a'\nserved_names = ['x']\n" * 2,
            "pools[0] and pools[1] would both serve the name x",
        ),
        (
            "[[pools]]\nmodel = 'builtin'\n" * 2,
            "pools[0] and pools[1] would both serve the name builtin",
        ),
        (
            "[[pools]]\nmodel = 'a/b@main'\n[[pools]]\nmodel = 'c'\nserved_names = ['b']",
            "pools[0] and pools[1] would both serve the name b",
        ),
        (
            "[[pools]]\nreplica_urls = ['http://a']\n" * 2,
            "pools[0] and pools[1] have no name: give all but one of them served_names",
        ),
    ],
)
def test_contradictions_are_refused(toml: str, said: str) -> None:
    assert said in refusal(toml)


@pytest.mark.parametrize(
    "toml",
    [
        "[admin]\nhost = '0.0.0.0'\nkey_file = '/k'",
        "[admin]\nhost = '0.0.0.0'\nopen = true",
        "[admin]\nhost = '0.0.0.0'\nport = 'off'",
        "[admin]\nhost = '::1'",
        "[admin]\nhost = 'localhost'",
        "[gateway]\ncors_origins = ['*', 'http://localhost:3000', 'https://a.org']",
        "[gateway]\ncors_origins = ['app://obsidian.md', 'null', 'https://*.a.org', 'vscode-webview://*']",
        "[gateway]\ncors_origins = ['chrome-extension://abc', 'file://', 'http://[::1]:3000']",
    ],
)
def test_an_admin_address_is_shut_or_opened_on_purpose(toml: str) -> None:
    load(toml, {}, {})


def test_a_more_precise_engine_may_serve_a_pool_of_lower_precision() -> None:
    toml = "[engine]\ndtype = 'f32'\n[[pools]]\nmodel = 'a'\nprecision = 'fp8'"
    assert load(toml, {}, {}).pools[0].precision is Precision.FP8


@pytest.mark.parametrize(("promise", "dtype"), [("f32", "f32"), ("bf16", "auto"), ("int8", "auto")])
def test_an_automatic_dtype_keeps_the_precision_of_the_pool(promise: str, dtype: str) -> None:
    settings = load(f"[[pools]]\nmodel = 'a'\nprecision = '{promise}'", {}, {})
    assert settings.engine.dtype == dtype


# -- what is left alone ------------------------------------------------------------------


def test_variables_of_kubernetes_clients_and_tests_are_no_settings() -> None:
    environment = {
        "EMBEDFLEET_SERVICE_HOST": "10.96.0.1",
        "EMBEDFLEET_PORT": "tcp://10.96.0.1:8080",
        "EMBEDFLEET_PORT_8080_TCP_ADDR": "10.96.0.1",
        "EMBEDFLEET_GATEWAY_PORT": "tcp://10.96.0.2:8080",
        "EMBEDFLEET_GATEWAY_SERVICE_PORT_HTTP": "8080",
        "EMBEDFLEET_TEST_MODELS": "/models",
        "EMBEDFLEET_CONFIG": "/etc/embedfleet.toml",
        "EMBEDFLEET_API_KEYS": "no-setting-and-shown-nowhere",
        "EMBEDFLEET_URL": "http://127.0.0.1:8080/v1",
        "PATH": "/bin",
    }
    assert load(None, environment, {}) == Settings()


def test_keywords_stand_for_absent_values() -> None:
    environment = {"EMBEDFLEET_ADMIN_PORT": "off", "EMBEDFLEET_ENGINE_THREADS": "auto"}
    settings = load('[engine]\nmemory_mib = "auto"', environment, {})
    assert settings.admin.port is None
    assert settings.engine == EngineSettings()


ODD = st.one_of(
    st.text(max_size=300),
    st.sampled_from(["[", "[::1", "http://[", "http://a:99999", "unix:/", "redis://[", "nan", "*"]),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.lists(st.text(max_size=5) | st.integers() | st.floats(), max_size=3),
)
"""Most of these are wrong for most options."""


@given(
    given=st.lists(st.tuples(st.sampled_from(list(options().values())), ODD), max_size=4),
    source=st.sampled_from(["variables", "flags"]),
)
def test_whatever_is_given_loads_or_is_refused_in_one_line(
    given: list[tuple[Option, Any]], source: str
) -> None:
    """Before anything is started, and no error is longer than a person reads."""
    variables = {option.variable: str(value) for option, value in given}
    flags = {option.path: value for option, value in given}
    told = ""
    try:
        load(None, *((variables, {}) if source == "variables" else ({}, flags)))
    except SettingError as error:
        told = error.message
    assert told.isprintable()
    assert len(told) <= 700


@pytest.mark.parametrize("url", ["http://a\nb", "http://a b", "http://a\t", " http://a"])
def test_an_address_has_no_white_space(url: str) -> None:
    assert "is not an address" in refusal(flags={"pools.replica_urls": [url]})


# -- showing them ------------------------------------------------------------------------


@given(st.data())
def test_settings_written_as_toml_load_as_the_same_settings(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(LONE), unique_by=lambda option: option.path))
    flags: dict[str, object] = {
        option.path: data.draw(values_of(option)) for option in chosen if option.path not in TIED
    }
    names = st.lists(st.text(min_size=1), unique=True).map(tuple)
    flags |= {"pools.model": data.draw(st.text(min_size=1)), "pools.served_names": data.draw(names)}
    settings = load(None, {}, flags)
    assert load(as_toml(settings), {}, {}) == settings


def test_every_effective_value_is_shown_with_its_origin() -> None:
    rows = effective(*trace(None, {"EMBEDFLEET_LOG_LEVEL": "debug"}, {"pools.model": "builtin"}))
    shown = {row.path: (row.value, row.source) for row in rows}
    assert shown["log.level"] == ("debug", "EMBEDFLEET_LOG_LEVEL")
    assert shown["pools[0].model"] == ("builtin", "flag MODEL")
    assert shown["pools[0].precision"] == ("auto", "default")
    assert len(rows) == len(options())


@pytest.mark.parametrize("option", options().values(), ids=lambda option: option.path)
def test_every_option_says_what_it_is_for_and_in_which_unit(option: Option) -> None:
    assert len(option.description) > 10
    assert option.description.endswith(".")
    for suffix, word in {"_s": "econds", "_bytes": "ytes", "_mib": "MiB"}.items():
        if option.name.endswith(suffix):
            assert word in option.description


def test_the_documentation_page_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == as_markdown(), (
        "run: python -m embedfleet config --docs > docs/settings.md"
    )


TIED = {
    *(f"autoscaling.{low_or_high}_replicas" for low_or_high in ("min", "max")),
    *("autoscaling.standby", "autoscaling.fast_window_s", "autoscaling.slow_window_s"),
    *("autoscaling.max_wait_s", "autoscaling.slo_s", "autoscaling.target_utilisation"),
    *(f"autoscaling.down_cooldown_{bound}_s" for bound in ("least", "most")),
    *("autoscaling.utilisation_ceiling", "autoscaling.tick_s", "autoscaling.stale_s"),
    *("gateway.port", "admin.port", "admin.host", "gateway.cors_origins"),
    *(f"{area}.tls_{file}" for area in ("gateway", "admin") for file in ("certificate", "key")),
    "gateway.max_body_bytes",
    "gateway.max_queued_bytes",
    "gateway.max_queued_tokens",
    "replica.max_queued_tokens",
    "engine.max_tokens",
    "fleet.restart_backoff_s",
    "fleet.restart_backoff_ceiling_s",
    "cache.redis_url",
    "cache.redis_cluster",
    "cache.redis_sentinels",
    "cache.redis_sentinel_password_file",
    "cache.redis_password_file",
    "cache.redis_ca_file",
}
"""Options that can contradict others, so not every value of theirs is valid beside defaults."""


def values_of(option: Option) -> st.SearchStrategy[Any]:
    """Values that the option accepts."""
    low, high = option.rule.at_least, option.rule.at_most
    if get_origin(option.type) is Literal:
        return st.sampled_from(option.choices)
    if option.type is bool:
        return st.booleans()
    if option.type is int:
        return st.integers(int(low or 0), int(high or 2**40))
    if option.type is float:
        # As printed with six digits, because variables carry them so in the test.
        return st.floats(low, high).map(lambda number: float(f"{number:g}"))
    if option.type == tuple[str, ...]:
        # Lists in variables are separated by commas.
        item = st.text("abcdefgh 0123456789:=-", min_size=1).map(str.strip).filter(bool)
        return st.lists(item).map(tuple)
    if option.type is Path:
        return st.text("abc/.-_ ", min_size=1).map(Path)
    assert option.type is str
    if option.path.endswith(".host"):
        return st.from_regex(r"[a-z0-9_]{1,9}(\.[a-z]{1,9}){0,2}", fullmatch=True)
    return st.text(st.characters(codec="utf-8"), min_size=1)


def literal(value: Any) -> str:
    """The value as TOML, written independently of the code under test."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, str | Path):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in str(value)) + '"'
    return repr(value)


@pytest.mark.parametrize("path", [path for path, each in options().items() if each.choices])
def test_words_in_the_environment_have_any_case_and_may_end_as_files_do(path: str) -> None:
    """`LOG_LEVEL=INFO` is Python's own way; `echo info` into a Secret leaves an end of line."""
    option = options()[path]
    for choice in option.choices:
        assert convert(option, f" {choice.upper()}\n", text=True) == choice
        assert convert(option, choice, text=False) == choice
        with pytest.raises(UnfitError):
            convert(option, f"{choice}x", text=True)
        with pytest.raises(UnfitError):
            convert(option, f"{choice}\n", text=False)
