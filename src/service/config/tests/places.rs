//! Which place wins, and what each can say.

use super::*;

#[test]
fn nothing_at_all_gives_the_defaults() {
    let loaded = setup().loaded();

    assert_eq!(format!("{:?}", loaded.config), format!("{:?}", Config::default()));
    assert!(loaded.values.iter().all(|row| row.source == "default"));
    assert_eq!(loaded.config.queue.max_size, NonZeroU32::new(1000));
    assert_eq!(loaded.config.queue.max_running, None);
    assert_eq!(loaded.config.retention.dead_letters, Duration::from_secs(30 * 86_400));
    assert_eq!(loaded.warnings, [""; 0]);
}

#[test]
fn each_place_wins_over_those_before_it() {
    let mut setup = setup();
    let mut expect = |change: &dyn Fn(Setup) -> Setup, value: &str, source: &str| {
        let before = std::mem::replace(&mut setup, self::setup());
        setup = change(before);
        assert_eq!(row(&setup.loaded(), "queue.max_size"), is(value, source));
    };
    let text = |size: u32| format!("[queue]\nmax_size = {size}");

    expect(&|setup| setup, "1000", "default");
    expect(
        &|setup| setup.file("config/default.toml", &text(1)),
        "1",
        "config/default.toml",
    );
    expect(
        &|setup| {
            setup
                .file("config/production.toml", &text(2))
                .variable("WAOOAW_ENV", "production")
        },
        "2",
        "config/production.toml",
    );
    expect(
        &|setup| setup.file("my.toml", &text(3)).config("my.toml"),
        "3",
        "--config my.toml",
    );
    expect(
        &|setup| setup.variable("TASK_QUEUE_MAX_SIZE", "4"),
        "4",
        "TASK_QUEUE_MAX_SIZE",
    );
    expect(
        &|setup| setup.variable("WAOOAW_QUEUE__MAX_SIZE", "5"),
        "5",
        "WAOOAW_QUEUE__MAX_SIZE",
    );
    expect(
        &|setup| setup.flag("--max-size", "queue.max_size", "6"),
        "6",
        "--max-size",
    );
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    let loaded = setup()
        .variable("TASK_QUEUE_MAX_SIZE", "")
        .variable("WAOOAW_QUEUE__MAX_SIZE", " ")
        .variable("WAOOAW_ENV", "")
        .variable("WAOOAW_NONSENSE", "")
        .loaded();

    assert_eq!(row(&loaded, "queue.max_size"), is("1000", "default"));
    assert_eq!(loaded.warnings, [""; 0]);
}

#[test]
fn short_names_set_their_keys() {
    let loaded = setup()
        .file("config/default.toml", "[http]\naddr = \"[::1]:1\"")
        .variable("REDIS_URL", "redis://u:hunter2@elsewhere")
        .variable("WORKER_POOL_SIZE", "50")
        .variable("TASK_QUEUE_MAX_RUNNING", "7")
        .variable("PORT", "9000")
        .loaded();

    assert_eq!(row(&loaded, "redis.url"), is("redis://u:***@elsewhere", "REDIS_URL"));
    assert_eq!(loaded.config.redis.url.reveal(), "redis://u:hunter2@elsewhere");
    assert_eq!(loaded.config.worker_pool.max_workers.get(), 50);
    assert_eq!(loaded.config.queue.max_running, NonZeroU32::new(7));
    assert_eq!(row(&loaded, "http.addr"), is("[::1]:9000", "PORT"));
}

#[test]
fn a_long_address_wins_over_the_short_port() {
    let loaded = setup()
        .variable("PORT", "9000")
        .variable("WAOOAW_HTTP__ADDR", "localhost:1234")
        .loaded();

    assert_eq!(loaded.config.http.addr.to_string(), "127.0.0.1:1234");
}

#[test]
fn variables_take_the_type_of_their_key() {
    let loaded = setup()
        .variable("WAOOAW_REDIS__CLUSTER", "yes")
        .variable("WAOOAW_REDIS__PREFIX", "123")
        .variable("WAOOAW_HANDLERS_BUILTIN", "true")
        .variable("WAOOAW_RETRY__DEFAULT", r#"{"max_retries": 7}"#)
        .variable("WAOOAW_HTTP__TOKENS", r#"[{"token": "hunter2", "role": "admin"}]"#)
        .loaded();

    assert!(loaded.config.redis.cluster && loaded.config.handlers_builtin);
    assert_eq!(loaded.config.redis.prefix, "123");
    assert_eq!(
        loaded.config.retry.default,
        RetryPolicy {
            max_retries: 7,
            ..RetryPolicy::STANDARD
        }
    );
    assert_eq!(loaded.config.http.tokens[0].role, Role::Admin);
    assert_eq!(loaded.config.http.tokens[0].token.reveal(), "hunter2");
    assert!(!format!("{loaded:?}").contains("hunter2"));
    assert_eq!(
        row(&loaded, "http.tokens"),
        is(r#"[{"role":"admin","token":"***"}]"#, "WAOOAW_HTTP__TOKENS")
    );
}

#[test]
fn an_unknown_variable_is_warned_of_with_what_it_may_have_meant() {
    let loaded = setup()
        .variable("WAOOAW_QUEUE_MAX_SIZE", "5")
        .variable("WAOOAW_SOMETHING", "5")
        .variable("WAOOAW_HANDLERS__ECHO__KIND", "builtin")
        .variable("WAOOAW_ENV", "nowhere")
        .variable("UNRELATED", "x")
        .loaded();

    assert_eq!(
        loaded.warnings,
        [
            "WAOOAW_ENV is `nowhere`, but there is no config/nowhere.toml",
            "WAOOAW_HANDLERS__ECHO__KIND is not read: handlers are configured in a file",
            "WAOOAW_QUEUE_MAX_SIZE is not read: no setting has that name, did you mean WAOOAW_QUEUE__MAX_SIZE?",
            "WAOOAW_SOMETHING is not read: no setting has that name",
        ]
    );
}
