//! The files in `config/` against the code.

use super::*;

#[test]
fn the_sample_file_holds_every_key_with_its_default() {
    let text = include_str!("../../../../config/default.toml");
    let sample = setup().file("config/default.toml", text).loaded();
    let bare = setup().loaded();

    assert_eq!(format!("{:?}", sample.config), format!("{:?}", bare.config));
    assert_eq!(sample.warnings, [""; 0]);
    assert_eq!(sample.values.len(), bare.values.len());
    for (in_sample, compiled) in sample.values.iter().zip(&bare.values) {
        assert_eq!((&in_sample.key, &in_sample.value), (&compiled.key, &compiled.value));
        if in_sample.value.is_empty() {
            let (_, name) = in_sample.key.rsplit_once('.').unwrap();
            assert!(text.contains(&format!("\n# {name} = ")), "{name} has no commented line");
        } else {
            assert_eq!(in_sample.source, "config/default.toml", "{}", in_sample.key);
        }
    }
}

#[test]
fn the_handlers_in_the_sample_file_hold_without_their_comment_signs() {
    let (_, handlers) = include_str!("../../../../config/default.toml")
        .split_once("# Handlers:")
        .unwrap();
    let lines: Vec<_> = handlers
        .lines()
        .skip(1)
        .map(|line| line.trim_start_matches(['#', ' ']))
        .collect();
    let loaded = setup().file("my.toml", &lines.join("\n")).config("my.toml").loaded();

    assert_eq!(loaded.config.handlers.len(), 3);
}

#[test]
fn each_profile_loads_and_does_what_its_name_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let load_profile = |name: &str| {
        let environment = BTreeMap::from([("WAOOAW_ENV".to_owned(), name.to_owned())]);
        let loaded = load(&Sources {
            directory: root,
            environment: &environment,
            file: None,
            flags: Vec::new(),
        })
        .unwrap();
        assert_eq!(loaded.warnings, [""; 0]);
        loaded.config
    };
    let limits = |config: &Config| {
        (
            config.queue.max_size.unwrap().get(),
            config.queue.max_running.unwrap().get(),
        )
    };

    assert_eq!(limits(&load_profile("high-throughput")), (10_000, 100));
    assert_eq!(limits(&load_profile("low-latency")), (100, 20));
    assert_eq!(load_profile("io-bound").worker_pool.max_workers.get(), 50);
}
