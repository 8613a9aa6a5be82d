//! Bytes in turn as netstrings, <https://cr.yp.to/proto/netstrings.txt>: how a dead letter keeps the fields and values of
//! a trigger, byte for byte as they came.

/// Fields and values in turn.
#[must_use]
pub fn netstrings(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in fields.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(part.len().to_string().as_bytes());
        bytes.push(b':');
        bytes.extend_from_slice(part);
        bytes.push(b',');
    }
    bytes
}

/// Reads the parts back, as far as there are any: of one that was cut what is left, which may be nothing. Answers also
/// whether all of them are whole.
#[must_use]
pub fn read_netstrings(mut bytes: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let colon = bytes.iter().position(|byte| *byte == b':');
        let length = colon.and_then(|colon| std::str::from_utf8(&bytes[..colon]).ok()?.parse::<usize>().ok());
        let (Some(colon), Some(length)) = (colon, length) else {
            return (parts, false);
        };
        let rest = &bytes[colon + 1..];
        let (Some(part), Some(b',')) = (rest.get(..length), rest.get(length)) else {
            parts.push(&rest[..length.min(rest.len())]);
            return (parts, false);
        };
        parts.push(part);
        bytes = &rest[length + 1..];
    }
    (parts, true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_cut_is_read_as_far_as_it_goes() {
        let whole = netstrings(&[(b"ab", b"12:3,"), (b"", b"c")]);
        assert_eq!(whole, b"2:ab,5:12:3,,0:,1:c,");

        assert_eq!(read_netstrings(&whole), (vec![&b"ab"[..], b"12:3,", b"", b"c"], true));
        assert_eq!(read_netstrings(&whole[..9]), (vec![&b"ab"[..], b"12"], false));
        assert_eq!(read_netstrings(&whole[..6]), (vec![&b"ab"[..]], false));
        assert_eq!(read_netstrings(b""), (vec![], true));
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(fields in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..4), cut in any::<u8>()) {
            let borrowed: Vec<(&[u8], &[u8])> =
                fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
            let bytes = netstrings(&borrowed);
            let parts: Vec<&[u8]> = borrowed.iter().flat_map(|(name, value)| [*name, *value]).collect();

            prop_assert_eq!(read_netstrings(&bytes), (parts, true));
            let (rest, _) = read_netstrings(&bytes[usize::from(cut).min(bytes.len())..]);
            prop_assert!(rest.len() <= bytes.len());
        }
    }
}
