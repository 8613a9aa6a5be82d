//! Cuts what clients and servers of Redis send into whole messages; knows no more of the protocol than where they end.
//!
//! RESP 2 and 3, <https://redis.io/docs/latest/develop/reference/protocol-spec/>. Bytes come in pieces of any size, and
//! what was looked at once is not looked at again.

/// Bytes that came and are not a whole message yet.
#[derive(Default)]
pub(crate) struct Messages {
    pub(crate) bytes: Vec<u8>,
    /// Up to where the first message was looked at.
    seen: usize,
    /// How many of its parts are still to come; 0 before its first.
    open: usize,
}

impl Messages {
    /// Takes the first message out, once all of it is there.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        if self.open == 0 {
            self.open = 1;
        }
        while self.open > 0 {
            let (length, parts) = part(&self.bytes[self.seen..])?;
            self.seen += length;
            self.open = self.open - 1 + parts;
        }
        let rest = self.bytes.split_off(std::mem::take(&mut self.seen));
        Some(std::mem::replace(&mut self.bytes, rest))
    }
}

/// The length of the first message, if all of it is there.
pub(crate) fn message_length(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut open) = (0, 1);
    while open > 0 {
        let (length, parts) = part(&bytes[at..])?;
        at += length;
        open = open - 1 + parts;
    }
    Some(at)
}

/// The length of one part that is whole, and how many parts it announces.
fn part(bytes: &[u8]) -> Option<(usize, usize)> {
    let line_end = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || {
        let digits = std::str::from_utf8(&bytes[1..line_end - 2]).ok();
        // -1 stands for nothing at all.
        digits.and_then(|digits| digits.parse::<i64>().ok()).unwrap_or(-1)
    };
    let announced = || usize::try_from(number()).unwrap_or(0);
    match bytes[0] {
        b'$' | b'=' | b'!' => match usize::try_from(number()) {
            Ok(length) => {
                let whole = line_end + length + 2;
                (bytes.len() >= whole).then_some((whole, 0))
            }
            Err(_) => Some((line_end, 0)),
        },
        b'*' | b'~' | b'>' => Some((line_end, announced())),
        b'%' => Some((line_end, 2 * announced())),
        // An attribute stands in front of what it describes.
        b'|' => Some((line_end, 2 * announced() + 1)),
        _ => Some((line_end, 0)),
    }
}

/// The words of a request.
pub(crate) fn words(request: &[u8]) -> Vec<&[u8]> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some((length, _)) = part(&request[at..]) {
        let piece = &request[at..at + length];
        if piece[0] == b'$'
            && let Some(line_end) = piece.windows(2).position(|pair| pair == b"\r\n")
        {
            words.push(&piece[(line_end + 2).min(length - 2)..length - 2]);
        }
        at += length;
    }
    words
}

#[test]
fn messages_come_out_whole_however_they_come_in() {
    let all: [&[u8]; 8] = [
        b"+OK\r\n",
        b"*2\r\n$4\r\nXLEN\r\n$3\r\na\r\n\r\n",
        b"*-1\r\n",
        b"*3\r\n*2\r\n:1\r\n$-1\r\n*0\r\n%1\r\n+a\r\n_\r\n",
        b"$0\r\n\r\n",
        b"|1\r\n+k\r\n+v\r\n:7\r\n",
        b">2\r\n+invalidate\r\n*1\r\n$1\r\nx\r\n",
        b"-ERR no\r\n",
    ];
    for size in [1, 2, 3, 7, 1000] {
        let mut messages = Messages::default();
        let mut found = Vec::new();
        for piece in all.concat().chunks(size) {
            messages.bytes.extend_from_slice(piece);
            while let Some(message) = messages.next() {
                found.push(message);
            }
        }
        assert_eq!(found, all, "in pieces of {size}");
        assert!(messages.bytes.is_empty());
    }
}

#[test]
fn a_request_is_read_as_words() {
    let request = b"*3\r\n$5\r\nFCALL\r\n$0\r\n\r\n$4\r\na\r\nb\r\n";

    assert_eq!(words(request), [b"FCALL".as_slice(), b"", b"a\r\nb"]);
}
