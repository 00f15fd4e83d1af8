"""Secrets: left out of what is stored by where they stand, filtered out of texts by how they look."""

import json
import shlex
import time
import urllib.parse
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from targets import Guarded

from tunewright.errors import ConfigError, StoreError
from tunewright.report.report import render_report
from tunewright.sessions.session import Session
from tunewright.space import Choice, Space
from tunewright.store.dsn import is_secret, pairs_of, read_dsn
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.store.secrets import public_options, public_spec, redact
from tunewright.store.store import Store
from tunewright.target import Measurement
from tunewright.testing import Sphere

CORE = "QZX"  # stands within each secret, where nothing else may have brought it
ANY = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
SECRETS = st.tuples(ANY, ANY).map(lambda ends: f"{ends[0]}{CORE}{ends[1]}{CORE}")
SOLID = SECRETS.filter(lambda text: not any(c.isspace() for c in text))


def in_quotes(secret):
    return "'" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'"


def with_backslashes(secret):
    return "".join(f"\\{c}" if c.isspace() or c in "'\\" else c for c in secret)


def encoded(secret):
    return urllib.parse.quote(secret, safe="")


# forms that can hold any secret, each by the rules of its own language
FORMS = {
    "conninfo in quotes": lambda s: f"host=h password={in_quotes(s)} user=me",
    "conninfo with backslashes": lambda s: f"host=h password={with_backslashes(s)} user=me",
    "URI": lambda s: f"could not reach postgresql://me:{encoded(s)}@h/db",
    "query of a URI": lambda s: f"postgresql://me@h/db?password={encoded(s)}&sslmode=require",
    "JSON": lambda s: json.dumps({"user": "me", "password": s, "n": 2}),
    "JSON with any letters": lambda s: json.dumps({"user": "me", "api_key": s, "n": 2}, ensure_ascii=False, indent=1),
    "JSON in JSON": lambda s: json.dumps({"body": json.dumps({"client_secret": s, "n": 2})}),
    "dictionary": lambda s: repr({"password": s, "n": 1}),
    "shell": lambda s: f"PGPASSWORD={shlex.quote(s)} psql -h x",
    "flag": lambda s: f"mysql --password {shlex.quote(s)} -h x",
    "flag with a sign": lambda s: f"mysql --db-password={shlex.quote(s)} -h x",
    "arguments": lambda s: f"Command {['mysql', '--password', s, 'x']!r} failed",
    "SQL": lambda s: "ALTER ROLE me PASSWORD '" + s.replace("'", "''") + "'; SELECT 1",
    "YAML": lambda s: f"user: me\npassword: x{s}\nn: 2",
    "header": lambda s: f"Authorization: Bearer {s}",
}
SOLID_FORMS = {
    "raw URI": lambda s: f"see //me:{s}@h for more",
    "second host": lambda s: f"postgresql://u:p1@h1,u2:{s}@h2/db",
    "user with an at sign": lambda s: f"postgresql://me@corp:{s}@h/db",
}


@pytest.mark.parametrize("form", FORMS)
@given(SECRETS)
def test_no_secret_comes_through_the_filter(form, secret):
    assert CORE not in redact(FORMS[form](secret))


@pytest.mark.parametrize("form", SOLID_FORMS)
@given(SOLID)
def test_no_secret_of_a_raw_uri_comes_through_the_filter(form, secret):
    assert CORE not in redact(SOLID_FORMS[form](secret))


@given(st.dictionaries(st.sampled_from(["password", "apiKey", "X-Api-Key", "hf_token"]), SECRETS, min_size=1))
def test_values_under_secret_names_are_replaced(mapping):
    nested = {"list": [{"deep": mapping}], "text": "as it is", "token_budget": 512, "password_count": 3}
    filtered = redact(nested)
    assert CORE not in json.dumps(filtered, ensure_ascii=False)
    assert filtered | {"list": []} == nested | {"list": []}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://me:s3cret@db/x", "postgresql://me:***@db/x"),
        ("host=db password=s3cret dbname=x", "host=db password=*** dbname=x"),
        ("PGPASSWORD='s3 cret' psql", "PGPASSWORD=*** psql"),
        ("PGPASSWORD='it'\\''s' psql", "PGPASSWORD=***"),
        ("api_key: s3cret", "api_key: ***"),
        ("password=a\\ b user=me", "password=*** user=me"),
        ("password='it\\'s' user=me", "password=*** user=me"),
        ('{"password": "a\\"b", "n": 1}', '{"password": "***", "n": 1}'),
        ("{'token': 'x', 'n': 1}", "{'token': '***', 'n': 1}"),
        ("got Bearer xyz from h", "got Bearer *** from h"),
        ("key sk-abc123, ghp_abcd1234 and AKIAABCDEFGH", "key ***, *** and ***"),
        ("slack xoxb-12-ab", "slack ***"),
        ("<password>s3cret</password>", "<password>***</password>"),
        ("curl -u me:s3cret http://h", "curl -u me:*** http://h"),
        ("secret: |\n  s3\n  cret\nn: 1", "secret: ***\nn: 1"),
        ("-----BEGIN RSA PRIVATE KEY-----\ns3cret\n-----END RSA PRIVATE KEY----- n", "*** n"),
    ],
)
def test_what_the_filter_makes_of_a_text(text, clean):
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("tokenizer == 'password=s3cret'", "tokenizer == 'password=***'"), ("['x', 'token=s3cret', 3]", "['x', 'token=***', 3]"),
        ("\"tokenizer == 'password=s3cret'\"", "\"tokenizer == 'password=***'\""), ('say "password=s3cret" now', 'say "password=***" now'),
        ('{"a": "password=s3cret"}', '{"a": "password=***"}'), ('"{\\"a\\": \\"password=s3cret\\"}"', '"{\\"a\\": \\"password=***\\"}"'),
        ('curl -H "X-Api-Key: s3cret"', 'curl -H "X-Api-Key: ***"'), ("`--password=s3cret`", "`--password=***`"), ("password=s3'cret", "password=***"),
        ("repr('password=\"s3cret\"')", "repr('password=***')"), ("it's password='s3cret' here", "it's password=*** here"),
    ],
)  # fmt: skip
def test_the_quote_that_closes_the_text_around_a_secret_is_kept(text, clean):
    assert redact(text) == clean
    assert redact(clean) == clean


def test_advice_on_how_to_write_a_connection_string_is_not_filtered():
    from tunewright.store.dsn import HOW_TO_WRITE

    advice = f"write host=HOST user=USER password='PASSWORD' or password=PASSWORD, or {HOW_TO_WRITE}"
    assert redact(advice) == advice
    assert redact("password=PASSWORDx and postgresql://me:xPASSWORD@h") == "password=*** and postgresql://me:***@h"


def test_rules_and_configurations_are_exported_as_they_are(store):
    rule, choice = "c == 'password=abc' and x0 > 2", "token=abc"
    target = Sphere(1)
    target.space = Space([*target.space.params.values(), Choice(name="c", choices=(choice, "b"), default=choice)])
    target.measure = lambda config, **how: Measurement(values={"loss": 1 + config["x0"]})
    plan = Plan(target="sphere", tuner="random", trust="fast", never=(rule,), require=("loss<=9",))
    with Session.create(plan, "a", store, target=target) as session:
        session.run(trials=2)
        document = export(store, "a")
    assert document["plan"]["never"] == [rule] and document["plan"]["require"] == ["loss<=9"]
    assert document["default"]["c"] == choice == document["trials"][0]["config"]["c"]
    words = shlex.split(document["repeat"])
    assert words[words.index("--never") + 1] == rule


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens == 4096", "max_tokens=4096", "token_budget=512", "tokens: 5,521", "the secretary: Ann",
        "max_num_batched_tokens <= 8192", "tokenizer=gpt2", "--token-limit 5", "time per output token: 0.05 s",
        "token: 5 of 7", "token == 5", "eos_token: </s>", "password_encryption = scram-sha-256", "PWD=/home/me",
        'FATAL: password authentication failed for user "me"', "fe_sendauth: no password supplied", "primary_key=id",
        "missing bearer token", "http://localhost:8000/v1", "4 calls, 5,521 tokens, 0.0120 $", "work_mem = '8192kB'",
        "sqlite:////home/me/s.db", "unknown token 'x' at line 3", "task-force", "passes: 3, bypass=on",
    ],
)  # fmt: skip
def test_ordinary_texts_are_left_alone(text):
    assert redact(text) == text
    assert redact({"never": [text]}) == {"never": [text]}


WORDS = st.sampled_from(["max", "tokens", "batched", "num", "budget", "limit", "size", "cache", "seqs", "ratio", "gpu"])


@given(
    st.lists(WORDS, min_size=2, max_size=4).map("_".join), st.integers(0, 10**9), st.sampled_from("= == >= : <".split())
)
def test_rules_on_parameters_are_left_alone(name, number, sign):
    for text in (f"{name} {sign} {number}", f"{name}{sign}{number}", f"--{name.replace('_', '-')} {number}"):
        assert redact(text) == text


def test_a_long_text_is_filtered_in_no_time():
    import time

    begun = time.process_time()
    for part in (
        "the http://a:b ",
        "//a:",
        "token ",
        "password: 'x ",
        '{"max_tokens": 5}',
        "-----BEGIN PRIVATE KEY-----",
    ):
        redact(part * (200_000 // len(part)))
    assert time.process_time() - begun < 20


# -- connection strings -----------------------------------------------------------------------------


@given(SECRETS)
def test_a_connection_string_loses_its_password_and_nothing_else(secret):
    pairs = read_dsn(f"host=h user='m e' password={in_quotes(secret)} dbname=a\\'b")
    assert pairs.clear and pairs.public == "host=h user='m e' dbname=a\\'b"
    uri = read_dsn(f"postgresql://me:{encoded(secret)}@h1:1,h2/db?password={encoded(secret)}&sslmode=require")
    assert uri.clear and uri.public == "postgresql://me@h1:1,h2/db?sslmode=require"


@given(SECRETS)
@example(f"{CORE} 0={CORE}")
def test_no_part_of_a_password_that_nobody_encoded_is_public(secret):
    for text in (
        f"postgresql://me:{secret}@h/db",
        f"postgresql://u:p@h,u2:{secret}@h2/db",
        f"host=h password={secret}",
    ):
        assert CORE not in read_dsn(text).public


@given(st.text(st.sampled_from("ab='\\ \n\t@/:"), max_size=14))
def test_pairs_are_read_as_libpq_reads_them(rest):
    psycopg = pytest.importorskip("psycopg")
    text = f"user={rest}"
    try:
        options = psycopg.pq.Conninfo.parse(text.encode())
    except psycopg.Error as error:
        assert pairs_of(text) is None or "invalid connection option" in str(error)
    else:
        known = {o.keyword.decode(): o.val.decode() for o in options if o.val is not None}
        assert {name: value for name, value, *_ in pairs_of(text)} == known


@given(st.text(st.sampled_from("ab@/:?,=&;%[]1"), max_size=14))
def test_a_clear_uri_means_the_same_to_libpq_without_its_password(rest):
    psycopg = pytest.importorskip("psycopg")
    from psycopg.conninfo import conninfo_to_dict

    known = read_dsn(f"postgresql://{rest}")
    if known.clear:
        try:
            before = conninfo_to_dict(f"postgresql://{rest}")
        except (psycopg.Error, ValueError):
            return
        before.pop("password", None)
        assert conninfo_to_dict(known.public) == before


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("redis://:s3cret@h:6379/0", "redis://@h:6379/0"),
        ("jdbc:postgresql://h/db?user=me&password=s3cret", "jdbc:postgresql://h/db?user=me"),
        ("Server=h;Uid=me;Pwd=s3cret", "Server=h;Uid=me"),
        ("dbname=postgresql://me:s3cret@h/x user=me", "dbname=postgresql://me@h/x user=me"),
        ("postgresql://me@h/db?sslpassword=s3cret", "postgresql://me@h/db"),
        ("password=s3cret", "connect_timeout=10"),
        ("sqlite:////a/b@c:d.db", "sqlite:////a/b@c:d.db"),
        ("service=prod", "service=prod"),
        ("/a/b password=1.csv", "/a/b password=1.csv"),
    ],
)
def test_what_is_public_of_a_connection_string(text, public):
    assert read_dsn(text).public == public


def test_names_of_secrets():
    secret = "password PGPASSWORD sslpassword MYSQL_PWD apiKey OPENAI_API_KEY hf_token authToken client_secret db_pass"
    plain = (
        "max_tokens tokens token_budget tokenizer secretary password_encryption per_token passfile primary_key bypass"
    )
    assert [n for n in secret.split() if not is_secret(n)] == []
    assert [n for n in plain.split() if is_secret(n)] == []


def test_specs_and_options_for_the_store():
    assert public_spec("postgres:postgresql://me:s3cret@h/db") == "postgres:postgresql://me@h/db"
    for spec in ("table:a/password=1.csv", "x/token=1.toml", "serving", "lustre:ior-16m"):
        assert public_spec(spec) == spec
    given = {
        "dsn": "host=h password=s3cret", "license": "s3cret", "api_key": "s3cret", "base_url": "http://me:s3cret@h/v1",
        "restart": "PGUSER=me pg_ctl -D '/a b' restart", "max_tokens": "5", "rows": 500,
    }  # fmt: skip
    assert public_options(given, ["license"]) == {
        **given, "dsn": "host=h", "license": "***", "api_key": "***", "base_url": "http://me@h/v1",
    }  # fmt: skip


# -- sessions ---------------------------------------------------------------------------------------

PHRASE = "the server said password=hunter2, max_tokens == 4096"


class Licensed(Guarded):
    """A third party's target, with an option that it declares secret."""

    secret_options = ("licence",)


class Talkative(Sphere):
    """Fails with somebody's words where x0 is above 1."""

    isolated = False

    def measure(self, config, **how):
        if config["x0"] < 0.5:  # the default's is 0.9
            raise ValueError(PHRASE)
        return super().measure(config, **how)


def test_a_session_is_stored_as_it_is(store):
    never = ("x0 == 4096", "x1 == -4096")
    plan = Plan(
        target="sphere", tuner="random", never=never, require=("loss<=1e9",), options={"note": "token_rate = 5"}
    )
    with Session.create(plan, "a", store, target=Talkative()) as session:
        session.run(trials=12)
    again = Session.resume("a", store, target=Talkative())
    assert again.plan == session.plan
    again.run(trials=1, verify=False)
    reasons = [t.reason for t in store.trials("a") if t.status == "failed"]
    assert reasons and all(PHRASE in r for r in reasons), "stored as they are"
    document = export(store, "a")
    shown = [t["reason"] for t in document["trials"] if t["status"] == "failed"]
    assert all("hunter2" not in r and "max_tokens == 4096" in r for r in shown), "filtered where they are shown"
    assert document["plan"]["never"] == list(never)
    assert "hunter2" not in render_report(document)


def test_no_secret_by_its_place_reaches_the_store(store, tmp_path):
    options = {"dsn": "postgresql://me:s3cret@h/d", "licence": "s3cret", "rows": "5"}
    plan = Plan(
        target="guarded:host=x password='s3cret ' user=me", tuner="random", options=options,
        tuner_options={"base_url": "http://me:s3cret@h/v1"},
    )  # fmt: skip
    plan = replace(plan, tuner_options={})  # random takes no options; what is stored of them is tested above
    with Session.create(plan, "a", store, target=Licensed()) as session:
        session.run(trials=3)
        wal = (tmp_path / "s.db-wal").read_bytes()
    store.close()
    assert b"s3cret" not in (tmp_path / "s.db").read_bytes() + wal
    stored = store.session("a")["plan"]
    assert stored["target"] == "guarded:host=x user=me"
    assert stored["options"] == {"dsn": "postgresql://me@h/d", "licence": "***", "rows": "5"}
    assert session.plan.options == options, "what runs has them"


def test_a_secret_option_is_asked_for_again(store, monkeypatch):
    opened = []

    def open_target(spec, options):
        opened.append((spec, dict(options)))
        return Licensed()

    monkeypatch.setattr("tunewright.plugins.open_target", open_target)
    monkeypatch.setattr("tunewright.sessions.recovery.open_target", open_target)
    Session.create(Plan(target="guarded", tuner="random", options={"licence": "s3cret"}), "a", store)
    with pytest.raises(ConfigError, match="option 'licence' of session 'a' is a secret.*--option licence="):
        Session.resume("a", store)
    Session.resume("a", store, options={"licence": "again"})
    assert opened[-1] == ("guarded", {"licence": "again"})


def test_sessions_of_an_earlier_version_open(store, monkeypatch):
    opened = []

    def open_target(spec, options):
        opened.append((spec, dict(options)))
        return Sphere()

    with Session.create(Plan(target="sphere", tuner="random"), "a", store, target=Sphere()) as session:
        session.run(trials=3)
    plan = store.session("a")["plan"]  # as the earlier version's filter left it
    spec, options = "sphere:host=db password=*** user=me", {"dsn": "postgresql://me:***@h/d"}
    store.update("a", plan={**plan, "target": spec, "options": options, "never": ["x0 =*** 4096"]})
    monkeypatch.setattr("tunewright.plugins.open_target", open_target)
    resumed = Session.resume("a", store)
    assert opened == [("sphere:host=db user=me", {"dsn": "postgresql://me@h/d"})]
    assert resumed.plan.never == ("x0 == 4096",)
    resumed.run(trials=1, verify=False)
    export(store, "a")
    store.update("a", plan={**plan, "never": ["max_tokens=***"]})
    with pytest.raises(ConfigError, match=r"lost a part of its rule 'max_tokens=\*\*\*'"):
        Session.resume("a", store)


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:s3@cret@127.0.0.1:1/x", "postgresql://u:p@h,me:s3cret@h2/x", "postgresql://me:s3cret/x@h/y"],
)
def test_the_url_of_a_store_is_never_quoted_with_its_password(url):
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="percent-encoded") as caught:
        Store(url)
    assert "cret" not in str(caught.value)


def test_a_server_that_is_read_is_never_quoted_with_its_password(cli):
    pytest.importorskip("psycopg")
    said = cli("read", "postgresql://me:s3@cret@127.0.0.1:1/x", code=1).stderr
    assert "percent-encoded" in said and "cret" not in said and said.count("\n") == 1


def test_what_a_tournament_keeps_has_no_secrets(monkeypatch):
    from tunewright.comparing import games, tournament

    entries = [
        games.entry("sqlite:host=h password=s3cret@api_key=s3cret@rows=5", "target"),
        games.Entry(label="mine", spec="sqlite", options={"licence": "s3cret"}),
    ]
    monkeypatch.setattr(tournament, "open_entry", lambda entry: Licensed())
    plan = games.Tournament(targets=entries, tuners=[games.entry("random", "tuner")])
    kept = tournament.description(plan, "postgresql://me:s3cret@h/db")
    assert "s3cret" not in json.dumps(kept)
    assert kept["store"] == "postgresql://me@h/db"
    assert kept["targets"][0]["options"]["rows"] == "5"


def test_a_call_log_keeps_replies_as_they_came(tmp_path):
    pytest.importorskip("langchain_core")
    from langchain_core.messages import AIMessage

    from tunewright.agents.llm.client import Ledger, read_log

    log = tmp_path / "calls.jsonl"
    arguments = {"changes": {"token": {"value": "abc", "reason": "token=abc is faster"}}}
    reply = AIMessage(content="api_key: mode", tool_calls=[{"name": "propose", "args": arguments, "id": "1"}])
    Ledger(log=log).add("tuner", [{"role": "human", "content": "it failed: password=hunter2"}], reply, 0.1)
    entry = read_log(log)[0]
    assert (entry["content"], entry["tool_calls"][0]["args"]) == ("api_key: mode", arguments)
    assert "hunter2" not in log.read_text()


@pytest.mark.parametrize(
    "piece",
    ["a", "a.", "a-", "1a", "api ", "api key ", "secret_key:", "password='x\n", 'password="', "password: |\n ", "<password>",
     "-eyJaaaaaaaaa", "sk-", "curl ", "//a:", "'//a:", "bearer  ", "-----BEGIN PRIVATE KEY-----", "password=a`", "'password',"],
)  # fmt: skip
def test_a_long_text_is_filtered_in_time_that_grows_with_its_length(piece):
    begun = time.process_time()
    redact(piece * (200_000 // len(piece)))
    assert time.process_time() - begun < 10, "it takes 0.01 to 2 s; a search anew from each letter takes a minute"


def test_a_rule_on_tokens_survives_a_resume(cli, tmp_path):
    (tmp_path / "t.csv").write_text("max_tokens,time-\n" + "".join(f"{n},{n % 7}\n" for n in range(4090, 4100)))
    store = f"sqlite:///{tmp_path}/s.db"
    words = ["tune", f"table:{tmp_path}/t.csv", "--never", "max_tokens == 4096", "-t", "random", "--store", store]
    cli(*words, "--trials", "2", "--trust", "fast", "--name", "nr")
    cli("resume", "nr", "--trials", "1", "--store", store)
    assert "max_tokens == 4096" in cli("show", "nr", "--store", store).stdout
