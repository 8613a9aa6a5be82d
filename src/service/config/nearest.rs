//! Guesses what a misspelt name was meant to be.

/// The candidate that `typed` was most likely meant to be, if any is near: one that ends in what was typed after the
/// first `_` (`WAOOAW_LOG_LEVEL`), else one with few letters different.
pub(super) fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let tail = typed.split_once('_').map_or(typed, |(_, tail)| tail);
    candidates
        .into_iter()
        .map(|candidate| {
            let differs_by = strsim::damerau_levenshtein(typed, candidate);
            (
                if candidate.ends_with(&format!("__{tail}")) {
                    0
                } else {
                    differs_by
                },
                candidate,
            )
        })
        .min()
        .filter(|(differs_by, candidate)| *differs_by <= candidate.len() / 4)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_slips_find_their_name() {
        let names = [
            "WAOOAW_QUEUE__MAX_SIZE",
            "WAOOAW_QUEUE__MAX_RUNNING",
            "WAOOAW_TELEMETRY__LOG_LEVEL",
        ];

        assert_eq!(nearest("WAOOAW_QUEUE_MAX_SIZE", names), Some(names[0]));
        assert_eq!(nearest("WAOOAW_QUEUE__MAX_RUNING", names), Some(names[1]));
        assert_eq!(nearest("WAOOAW_LOG_LEVEL", names), Some(names[2]));
        assert_eq!(nearest("WAOOAW_SOMETHING_ELSE", names), None);
        assert_eq!(nearest("max_sise", ["max_size", "max_wait"]), Some("max_size"));
    }
}
