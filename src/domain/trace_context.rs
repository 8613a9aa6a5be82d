//! The trace context of the W3C, checked but never used: it is handed on to whoever traces.

/// Whether this is a `traceparent` as <https://www.w3.org/TR/trace-context/#traceparent-header> has it. Later versions
/// than 00 may go on after the flags.
pub(super) fn is_traceparent(text: &[u8]) -> bool {
    let Some((known, further)) = text.split_at_checked(55) else {
        return false;
    };
    let is_hex = |part: &[u8]| {
        part.iter()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
    };
    let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|byte| *byte != b'0');
    let (version, trace_id, parent_id, flags) = (&known[..2], &known[3..35], &known[36..52], &known[53..]);
    [known[2], known[35], known[52]] == *b"---"
        && is_hex(version)
        && version != b"ff"
        && is_id(trace_id)
        && is_id(parent_id)
        && is_hex(flags)
        && (further.is_empty() || (version != b"00" && further[0] == b'-' && text.len() <= 256 && text.is_ascii()))
}

/// Whether this can be a `tracestate`: its inside is the vendors' own.
pub(super) fn is_tracestate(text: &str) -> bool {
    text.len() <= 512 && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_has_the_shape_of_its_version() {
        for (text, is_legal) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", false),
            ("00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("", false),
        ] {
            assert_eq!(is_traceparent(text.as_bytes()), is_legal, "{text}");
        }
    }

    #[test]
    fn a_tracestate_is_short_and_printable() {
        assert!(is_tracestate("vendor=1,other=2"));
        assert!(!is_tracestate("a\nb"));
        assert!(!is_tracestate(&"x".repeat(513)));
    }
}
