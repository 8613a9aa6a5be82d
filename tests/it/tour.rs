//! The commands that bring their own Redis and replicas, and take them away again.

use crate::support::cli::{Cli, processes_of};
use crate::support::redis::free_port;
use crate::support::replica::get;
use crate::support::{holds, wait_for};

#[tokio::test]
async fn the_demo_ends_by_itself_with_good_verdicts_and_leaves_nothing() {
    let ran = Cli::new(&["demo", "--output", "json"]).run().await.expect(0);

    let document = ran.json();
    assert_eq!(document["ok"], true, "{document}");
    let scenes = document["scenes"].as_array().unwrap();
    assert!(!scenes.is_empty());
    for scene in scenes {
        assert_eq!(scene["ok"], true, "{scene}");
        assert!(
            scene["verdict"].as_str().is_some_and(|text| !text.is_empty()),
            "{scene}"
        );
    }
    let audit = &document["audit"];
    assert_eq!(audit["ok"], true, "{audit}");
    assert_eq!(audit["violations"], serde_json::json!([]));
    assert!(audit["events"].as_u64().unwrap() > 0, "{audit}");
    assert_eq!(audit["tasks"], document["tasks"], "log and counters");
    assert_eq!(ran.leftovers(), Vec::<String>::new());
}

/// Two ports in a row that nobody listens on.
fn two_ports() -> u16 {
    loop {
        let (first, second) = (free_port(), free_port());
        if second == first + 1 {
            return first;
        }
    }
}

async fn until_ready(ports: [u16; 2]) {
    for port in ports {
        wait_for("a replica is ready", async || {
            let answer = get(port, "/readyz").await;
            let is_ready = answer.as_ref().is_some_and(|(status, _)| *status == 200);
            holds(is_ready, || format!("{port}: {answer:?}"))
        })
        .await;
    }
}

#[tokio::test]
async fn dev_that_is_killed_leaves_nothing_either() {
    let port = two_ports();
    let dev = Cli::new(&["dev", "--replicas", "2"])
        .set("PORT", &port.to_string())
        .spawn();
    until_ready([port, port + 1]).await;

    dev.signal("KILL");

    let ran = dev.ended().await;
    assert_eq!(ran.code, None);
    wait_for("all of it is gone", async || {
        let left = ran.leftovers();
        holds(left.is_empty(), || format!("{left:?}"))
    })
    .await;
}

#[tokio::test]
async fn dev_answers_on_its_ports_and_takes_everything_with_it() {
    let port = two_ports();
    let dev = Cli::new(&["dev", "--replicas", "2"])
        .set("PORT", &port.to_string())
        .spawn();
    until_ready([port, port + 1]).await;
    if cfg!(target_os = "linux") {
        // Itself, Redis and two replicas: what is looked for afterwards is really found here.
        let processes = processes_of(&dev.folder());
        assert_eq!(processes.len(), 4, "{processes:?}");
    }

    dev.signal("INT");

    let ran = dev.ended().await.expect(0);
    assert!(ran.err.contains("redis-cli -p "), "{ran:?}");
    assert_eq!(ran.leftovers(), Vec::<String>::new());
    assert!(get(port, "/healthz").await.is_none() && get(port + 1, "/healthz").await.is_none());
}
