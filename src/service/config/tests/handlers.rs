//! The handlers of each kind.

use super::*;

#[test]
fn handlers_of_every_kind_are_read() {
    let text = "
[handlers.echo]
kind = \"builtin\"
[handlers.mail]
kind = \"http\"
queue = \"mail\"
timeout_seconds = 1.5
retry = { max_retries = 9 }
priority = \"high\"
max_running = 3
url = \"https://mail.example/send\"
headers = { Authorization = \"hunter2\" }
signing_secret = \"hunter2\"
[handlers.report]
kind = \"command\"
argv = [\"report\", \"--json\"]
env = { DATABASE_URL = \"hunter2\" }
[handlers.\"sales.quote\"]
kind = \"agent\"
agent_id = \"sales\"
";
    let loaded = setup().file("config/default.toml", text).loaded();
    let handler = |name: &str| &loaded.config.handlers[&name.parse::<Name>().unwrap()];

    let mail = handler("mail");
    assert_eq!(mail.queue.as_ref().map(Name::as_str), Some("mail"));
    assert_eq!(mail.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(
        mail.retry,
        Some(RetryPolicy {
            max_retries: 9,
            ..RetryPolicy::STANDARD
        })
    );
    assert_eq!(mail.priority, Some(crate::domain::priority::Priority::High));
    assert_eq!(mail.max_running, NonZeroU32::new(3));
    assert!(
        matches!(&mail.kind, HandlerKind::Http { url, headers, signing_secret: Some(_) }
        if url.reveal().starts_with("https") && headers["Authorization"].reveal() == "hunter2")
    );
    assert!(matches!(handler("echo").kind, HandlerKind::Builtin));
    assert!(matches!(&handler("report").kind, HandlerKind::Command { argv, env }
        if argv == &["report", "--json"] && env["DATABASE_URL"].reveal() == "hunter2"));
    assert!(
        matches!(&handler("sales.quote").kind, HandlerKind::Agent { agent_id, heartbeat_timeout }
        if agent_id.as_str() == "sales" && *heartbeat_timeout == Duration::from_secs(60))
    );
    assert!(!format!("{loaded:?}").contains("hunter2"));
    assert_eq!(
        row(&loaded, "handlers.\"sales.quote\".agent_id"),
        is("sales", "config/default.toml")
    );
}

#[test]
fn each_wrong_handler_setting_is_named() {
    let text = "
[handlers.a]
queue = \"q q\"
[handlers.b]
kind = \"http\"
argv = [\"x\"]
timeout_seconds = nan
[handlers.c]
kind = \"command\"
argv = []
env = { \"a=b\" = \"hunter2\", WAOOAW_ATTEMPT = \"1\" }
priority = \"URGENT\"
[handlers.d]
kind = \"agent\"
timeout_seconds = 0
retry = { jitter = 2, max_retries = \"x\" }
[handlers.e]
kind = \"wasm\"
[handlers.f]
kind = \"http\"
url = \"ftp://h\"
retry = { jitter = 2 }
headers = { \"a b\" = \"hunter2\", Content-Length = \"7\" }
signing_secret = \"whsec_hunter-2\"
[handlers.\"g h\"]
kind = \"builtin\"
[handlers.i]
";
    let refused = setup().file("config/default.toml", text).refused();

    let mut lines: Vec<_> = refused
        .lines()
        .map(|line| line.replace(" (config/default.toml)", ""))
        .collect();
    lines.sort_unstable();
    assert_eq!(
        format!("\n{}\n", lines.join("\n")),
        "
handlers.\"g h\": `g h` is not a valid name: expected 1 to 128 characters of A-Z a-z 0-9 . _ : / -
handlers.a.kind: is missing: expected `builtin`, `http`, `command` or `agent`
handlers.a.queue = `q q`: `q q` is not a valid name: expected 1 to 128 characters of A-Z a-z 0-9 . _ : / -
handlers.b.argv = `[\"x\"]`: belongs to kind `command`, not to `http`
handlers.b.timeout_seconds = `NaN`: expected a number
handlers.b.url: is missing
handlers.c.argv = `[]`: expected a program and its arguments
handlers.c.env.\"a=b\" = `***`: is not a valid environment variable
handlers.c.env.WAOOAW_ATTEMPT: names that begin with WAOOAW_ are set by the runtime
handlers.c.priority = `URGENT`: `URGENT` is not a priority: expected HIGH, NORMAL, LOW or BACKGROUND
handlers.d.agent_id: is missing
handlers.d.retry.max_retries = `x`: expected a whole number
handlers.d.timeout_seconds = `0`: expected seconds from 0.001 to 31536000
handlers.e.kind = `wasm`: expected `builtin`, `http`, `command` or `agent`
handlers.f.headers.\"a b\" = `***`: is not a valid HTTP header
handlers.f.headers.Content-Length: belongs to the connection and can not be set
handlers.f.retry.jitter = `2`: is 2, must be from 0 to 1
handlers.f.signing_secret = `***`: what follows `whsec_` is not base64
handlers.f.url = `ftp://h`: expected an address that begins with http:// or https://
handlers.i.kind: is missing: expected `builtin`, `http`, `command` or `agent`
"
    );
}

#[test]
fn an_address_that_no_request_may_go_to_is_warned_of() {
    let text = "
[handlers.a]
kind = \"http\"
url = \"http://[::ffff:169.254.169.254]/latest\"
[handlers.b]
kind = \"http\"
url = \"http://127.0.0.1/\"
";
    let loaded = setup().file("config/default.toml", text).loaded();

    assert_eq!(
        loaded.warnings,
        ["handlers.a.url is link-local or a metadata service: every request will be refused"]
    );
}
