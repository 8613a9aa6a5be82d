//! How the pool gets its size.

use super::*;

#[test]
fn auto_is_the_smaller_of_ten_and_the_cores() {
    let setup = setup().variable("WORKER_POOL_SIZE", "auto");

    for (cores, workers) in [(1, 1), (4, 4), (64, 10)] {
        let loaded = setup.load_on(cores).unwrap();
        assert_eq!(loaded.config.worker_pool.max_workers.get(), workers);
        assert_eq!(loaded.config.worker_pool.min_workers.get(), workers.min(2));
        assert_eq!(
            row(&loaded, "worker_pool.max_workers"),
            is(&workers.to_string(), "WORKER_POOL_SIZE, auto")
        );
    }
}

#[test]
fn a_smaller_pool_lowers_a_minimum_that_nobody_chose_for_it() {
    let bare = setup().variable("WORKER_POOL_SIZE", "1");
    let with_sample = setup()
        .file("config/default.toml", include_str!("../../../../config/default.toml"))
        .variable("WORKER_POOL_SIZE", "1");

    for setup in [bare, with_sample] {
        let loaded = setup.loaded();
        assert_eq!(loaded.config.worker_pool.min_workers.get(), 1);
        assert_eq!(
            row(&loaded, "worker_pool.min_workers"),
            is("1", "WORKER_POOL_SIZE, lowered to worker_pool.max_workers")
        );
    }
}

#[test]
fn a_minimum_that_was_chosen_is_never_lowered() {
    let one_file = setup().file("config/default.toml", "[worker_pool]\nmax_workers = 3\nmin_workers = 5");
    let two_places = setup()
        .file("my.toml", "[worker_pool]\nmin_workers = 5")
        .config("my.toml")
        .variable("WORKER_POOL_SIZE", "3");

    for setup in [one_file, two_places] {
        let refused = setup.refused();
        assert!(
            refused.contains("must be from 1 to worker_pool.max_workers, which is 3"),
            "{refused}"
        );
    }
}
