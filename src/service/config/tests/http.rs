//! Who may come in.

use super::*;

#[test]
fn off_loopback_it_takes_tokens_or_an_explicit_word() {
    let open = || setup().variable("WAOOAW_HTTP__ADDR", "0.0.0.0:8001");

    assert!(
        open()
            .refused()
            .contains("http.addr = `0.0.0.0:8001` (WAOOAW_HTTP__ADDR): is reachable from outside")
    );
    assert!(
        open()
            .variable("WAOOAW_HTTP__ALLOW_UNAUTHENTICATED", "true")
            .load_on(1)
            .is_ok()
    );
    assert!(
        open()
            .variable("WAOOAW_HTTP__TOKENS", r#"[{"token": "t", "role": "read"}]"#)
            .load_on(1)
            .is_ok()
    );
}

#[test]
fn a_token_can_lie_in_a_file_of_its_own() {
    let loaded = setup()
        .file("secrets/admin", "hunter2\n")
        .file(
            "config/default.toml",
            "[http]\ntokens = [{ token_file = \"secrets/admin\", role = \"admin\" }]",
        )
        .loaded();

    assert_eq!(loaded.config.http.tokens[0].token.reveal(), "hunter2");
    assert_eq!(
        row(&loaded, "http.tokens").0,
        r#"[{"role":"admin","token_file":"secrets/admin"}]"#
    );
}

#[test]
fn a_null_is_no_token() {
    let refused = setup()
        .variable("WAOOAW_HTTP__ADDR", "0.0.0.0:8001")
        .variable("WAOOAW_HTTP__TOKENS", "[null]")
        .refused();

    assert_eq!(refused, "http.tokens[0] (WAOOAW_HTTP__TOKENS): expected a table");
}
