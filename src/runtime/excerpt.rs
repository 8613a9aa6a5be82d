//! What an error may quote of what somebody else wrote: the end of it, without control characters and secrets.

/// How much of a target's own words an error quotes, in bytes. With the sentence in front it stays below what is kept of
/// an error message.
pub(super) const EXCERPT_BYTES: usize = 7 << 10;
/// Shorter secrets are not looked for: whatever reads the same by chance would become unreadable.
const SECRET_BYTES_MIN: usize = 4;

/// Texts that no error may show.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Remembers a secret, and its last word: what follows `Bearer`, for instance.
    pub(super) fn add(&mut self, secret: &str) {
        let last_word = secret.split_whitespace().next_back().unwrap_or_default();
        for text in [secret, last_word] {
            if text.len() >= SECRET_BYTES_MIN && !self.0.iter().any(|known| known == text) {
                self.0.push(text.to_owned());
            }
        }
        // The longest first, or a part of it would hide the rest of it from being found.
        self.0.sort_by_key(|text| std::cmp::Reverse(text.len()));
    }

    /// The text with `***` in the place of each secret.
    pub(super) fn masked(&self, text: &str) -> String {
        self.0
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

/// The end of what was written: what is not UTF-8 is replaced, control characters but tabs and line ends are left out.
pub(super) fn excerpt(bytes: &[u8], secrets: &Secrets) -> String {
    // Far more than is kept, whatever is left out of it.
    let end = &bytes[bytes.len().saturating_sub(4 * EXCERPT_BYTES)..];
    let text = secrets.masked(&String::from_utf8_lossy(end));
    let text: String = text
        .chars()
        .filter(|letter| !letter.is_control() || matches!(letter, '\n' | '\t'))
        .collect();
    let text = text.trim();
    let mut start = text.len().saturating_sub(EXCERPT_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    if start == 0 && end.len() == bytes.len() {
        text.to_owned()
    } else {
        format!("…{}", &text[start..])
    }
}

/// A sentence, and behind a colon what it quotes, if that is anything.
pub(super) fn with_excerpt(sentence: &str, excerpt: &str) -> String {
    if excerpt.is_empty() {
        sentence.to_owned()
    } else {
        format!("{sentence}: {excerpt}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_quoted_without_what_a_terminal_would_obey() {
        let secrets = Secrets::default();
        let long = "x".repeat(EXCERPT_BYTES) + "é\u{1b}[31m\r\nend\n";

        let quoted = excerpt(long.as_bytes(), &secrets);

        assert!(quoted.starts_with("…x") && quoted.ends_with("é[31m\nend"), "{quoted}");
        assert!(quoted.len() <= EXCERPT_BYTES + "…".len());
        assert_eq!(excerpt(b" \xffa\n", &secrets), "\u{fffd}a");
        assert_eq!(with_excerpt("exit code 3", ""), "exit code 3");
    }

    #[test]
    fn secrets_are_masked_with_or_without_their_first_word() {
        let mut secrets = Secrets::default();
        secrets.add("Bearer hunter2hunter2");
        secrets.add("abc");

        let quoted = excerpt(b"got hunter2hunter2 in 'Bearer hunter2hunter2', abc", &secrets);

        assert_eq!(quoted, "got *** in '***', abc");
    }
}
