//! Redis over TLS: with the authority of the configuration, and with no other.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::support::cli::Cli;
use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, free_port, task_of};
use crate::support::{holds, wait_for};

/// Writes the certificate of an authority, and a server's with its key, as `<name>.ca`, `<name>.crt` and `<name>.key`.
fn certify(folder: &Path, name: &str) {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::from_params(&params, &authority_key);
    let server_key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = CertificateParams::new(names)
        .unwrap()
        .signed_by(&server_key, &issuer)
        .unwrap();
    let write = |end: &str, text: String| std::fs::write(folder.join(format!("{name}.{end}")), text).unwrap();
    write("ca", authority.pem());
    write("crt", server.pem());
    write("key", server_key.serialize_pem());
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls_with_the_right_authority_only() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["good", "other"] {
        certify(folder.path(), name);
    }
    let path = |file: &str| folder.path().join(file).to_str().unwrap().to_owned();
    let port = free_port();
    let redis = TestRedis::not_started(false).with_options(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path("good.crt"),
        "--tls-key-file",
        &path("good.key"),
        "--tls-ca-cert-file",
        &path("good.ca"),
        "--tls-auth-clients",
        "no",
    ]);
    redis.start_again().await;
    let url = format!("rediss://127.0.0.1:{port}");
    let settings = redis.replica().redis_url(Some(&url));

    let replica = settings
        .clone()
        .set("WAOOAW_REDIS__CA_FILE", &path("good.ca"))
        .start()
        .await;
    redis.trigger("e", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("e"), "task.completed").await;
    drop(replica);
    for authority in [Some("other.ca"), None] {
        let mut settings = settings.clone();
        if let Some(authority) = authority {
            settings = settings.set("WAOOAW_REDIS__CA_FILE", &path(authority));
        }
        let replica = settings.spawn();
        wait_for("it says why it does not connect", async || {
            let log = replica.log();
            let says = log.to_lowercase().contains("certificate");
            holds(says, || log)
        })
        .await;
        assert_eq!(replica.get("/readyz").await.unwrap().0, 503, "{authority:?}");
    }
    let with = |authority: &str| {
        Cli::new(&["--redis-url", &url, "stats", "--output", "json"]).set("WAOOAW_REDIS__CA_FILE", &path(authority))
    };
    assert_eq!(with("good.ca").json().await["completed_count"], 1);
    assert_eq!(with("other.ca").run().await.code, Some(3));
    check_all_ended(&redis).await;
}
