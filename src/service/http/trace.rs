//! The trace that a request belongs to: W3C Trace Context headers.

use axum::http::HeaderMap;

/// The most bytes of a `tracestate`, as on the bus.
const STATE_BYTES_MAX: usize = 512;

/// The `traceparent` and `tracestate` of a request. A malformed one is left out: tracing never stops the work.
pub(super) fn context(headers: &HeaderMap) -> Option<(&str, Option<&str>)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let parent = text("traceparent").filter(|parent| is_parent(parent))?;
    let state = text("tracestate").filter(|state| !state.is_empty() && state.len() <= STATE_BYTES_MAX);
    Some((parent, state))
}

/// Version, trace id, parent id and flags in lower-case hexadecimal, the ids not all zero.
fn is_parent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else {
        return false;
    };
    let is_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    is_hex(version, 2)
        && version != "ff"
        && is_hex(trace, 32)
        && !is_zero(trace)
        && is_hex(parent, 16)
        && !is_zero(parent)
        && is_hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_context_is_taken() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_parent(good));
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_parent(bad), "{bad}");
        }
    }
}
