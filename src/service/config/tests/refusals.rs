//! What stops the start, and how it is told.

use super::*;

#[test]
fn an_unknown_key_in_a_file_stops_the_start() {
    let text = "
typo = 1
\"queue.max_size\" = 1
[queue]
max_sise = 5
[handlers.echo]
kind = \"builtin\"
signing_secert = \"hunter2\"
[handlers.mail.send]
kind = \"builtin\"
";
    let refused = setup().file("config/default.toml", text).refused();

    for line in [
        "typo (config/default.toml): unknown key, expected one of `redis`",
        "\"queue.max_size\" (config/default.toml): unknown key",
        "queue.max_sise (config/default.toml): unknown key, did you mean `max_size`?",
        "handlers.echo.signing_secert (config/default.toml): unknown key, did you mean `signing_secret`?",
        "handlers.mail.send (config/default.toml): unknown key",
        "a task name with a dot needs quotes",
    ] {
        assert!(refused.contains(line), "{line}\n---\n{refused}");
    }
    assert!(!refused.contains("hunter2"), "{refused}");
}

#[test]
fn traces_are_sent_to_an_address_of_http() {
    let refused = setup()
        .variable("WAOOAW_TELEMETRY__OTLP_ENDPOINT", "collector:4317")
        .refused();

    let line = "telemetry.otlp_endpoint";
    assert!(
        refused.contains(line) && refused.contains("http://collector:4318"),
        "{refused}"
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let text = "
[redis]
url = \"http://u:hunter2@h\"
prefix = \"a b\"
partitions = 2.5
ca_file = \"nowhere.pem\"
connect_timeout = 2
response_timeout = \"0s\"
[http]
tokens = [{ token = \"a\", role = \"root\" }, { role = \"read\" }, { token_file = \"nowhere\", role = \"read\" }, 5]
[telemetry]
log_level = \"inof\"
log_format = \"xml\"
[queue]
max_size = -1
max_wait = \"60\"
[worker_pool]
min_workers = 0
autoscale = \"maybe\"
[retry]
default = \"SLOW\"
[retention]
max_events = 0
";
    let refused = setup()
        .file("my.toml", text)
        .config("my.toml")
        .variable("PORT", "port")
        .variable("WAOOAW_REDIS__CLUSTER", "perhaps")
        .variable("TASK_QUEUE_MAX_RUNNING", "many")
        .variable("WORKER_POOL_SIZE", "0")
        .refused();

    let mut lines: Vec<_> = refused.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        format!("\n{}\n", lines.join("\n")),
        "
http.addr = `port` (PORT): expected a port from 0 to 65535
http.tokens[0].role = `root` (--config my.toml): expected `read`, `trigger` or `admin`
http.tokens[1] = `{\"role\":\"read\"}` (--config my.toml): needs either `token` or `token_file`
http.tokens[2].token_file = `nowhere` (--config my.toml): can not be read: No such file or directory (os error 2)
http.tokens[3] = `***` (--config my.toml): expected a table
queue.max_running = `many` (TASK_QUEUE_MAX_RUNNING): expected a whole number
queue.max_size = `-1` (--config my.toml): expected a whole number from 0 to 4294967295
queue.max_wait = `60` (--config my.toml): expected a duration with its unit, such as 250ms, 30s, 5m, 24h, 30d or 1h30m
redis.ca_file = `nowhere.pem` (--config my.toml): there is no such file
redis.cluster = `perhaps` (WAOOAW_REDIS__CLUSTER): expected a boolean
redis.connect_timeout = `2` (--config my.toml): expected a string
redis.partitions = `2.5` (--config my.toml): expected a whole number
redis.prefix = `a b` (--config my.toml): expected 1 to 64 characters of A-Z a-z 0-9 . _ -
redis.response_timeout = `0s` (--config my.toml): expected a duration from 1ms to 3650d
redis.url = `http://u:***@h/` (--config my.toml): expected an address that begins with redis:// or rediss://
retention.max_events = `0` (--config my.toml): expected a whole number from 1 to 4294967295
retry.default = `SLOW` (--config my.toml): is `SLOW`, which is no preset: expected AGGRESSIVE, STANDARD, CONSERVATIVE or QUICK
telemetry.log_format = `xml` (--config my.toml): expected `auto`, `pretty` or `json`
telemetry.log_level = `inof` (--config my.toml): `inof` is neither a level nor a `target=level`: expected error, warn, info, debug, trace or off
worker_pool.autoscale = `maybe` (--config my.toml): expected a boolean
worker_pool.max_workers = `0` (WORKER_POOL_SIZE): expected \"auto\" or a whole number from 1 to 10000
worker_pool.min_workers = `0` (--config my.toml): worker_pool.min_workers must be from 1 to worker_pool.max_workers
"
    );
}

#[test]
fn a_file_that_can_not_be_read_is_named_and_the_rest_is_still_checked() {
    let refused = setup()
        .file("config/default.toml", "[redis]\nurl = \"redis://u:hunter2@h\n")
        .config("missing.toml")
        .variable("WAOOAW_ENV", "../etc/passwd")
        .variable("WAOOAW_QUEUE__MAX_SIZE", "x")
        .refused();

    assert_eq!(refused.lines().count(), 4, "{refused}");
    assert!(
        refused.contains("config/default.toml: is not TOML, line 2: "),
        "{refused}"
    );
    assert!(
        refused.contains("--config missing.toml: can not be read: No such file"),
        "{refused}"
    );
    assert!(refused.contains("WAOOAW_ENV = `../etc/passwd`"), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
}

#[test]
fn a_value_in_the_place_of_a_section_is_refused_without_its_secrets() {
    let text = "redis = \"redis://u:hunter2@h\"\nhttp = \"hunter2\"\nhandlers = \"hunter2\"\nqueue = 5";
    let refused = setup().file("config/default.toml", text).refused();

    assert!(
        refused.contains("redis = `redis://u:***@h` (config/default.toml): expected a table"),
        "{refused}"
    );
    assert_eq!(refused.lines().count(), 4, "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
}
