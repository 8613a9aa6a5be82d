//! Reads Rust text just well enough for the house rules: what is code, its words, its paths.
//!
//! `code_of` blanks out comments and literals but keeps every line where it was; `words` and
//! `paths_in` then need to know nothing about either. No syntax tree: a rule that would need one
//! belongs to clippy.

use std::collections::BTreeSet;

/// `text` with every comment, string and character literal replaced by blanks; lines stay where they are.
pub(crate) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_in_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let blank = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !is_in_word) {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            0
        };
        if blank == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..blank].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[blank..];
        }
    }
    code
}

/// The length of a block comment, which may hold others.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a raw string such as `r#"…"#` or `br"…"`, if `text` begins with one.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        text.strip_prefix(prefix)
            .is_some_and(|after| after.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = text[prefix.len()..].chars().take_while(|c| *c == '#').count();
    let opened = prefix.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(
        text[opened..]
            .find(&end)
            .map_or(text.len(), |at| opened + at + end.len()),
    )
}

fn quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_character(text: &str) -> bool {
    let mut after = text.chars().skip(1);
    match after.next() {
        Some('\\') => true,
        Some(_) => after.next() == Some('\''),
        None => false,
    }
}

/// One identifier, with the code on both sides of it (blanks around it skipped).
pub(crate) struct Word<'a> {
    pub(crate) line: usize,
    /// Where it begins, in bytes.
    pub(crate) start: usize,
    pub(crate) text: &'a str,
    pub(crate) before: &'a str,
    pub(crate) after: &'a str,
}

pub(crate) fn words(code: &str) -> impl Iterator<Item = Word<'_>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    let mut line = 1;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let end = code[start..]
            .find(|c| !is_word(c))
            .map_or(code.len(), |length| start + length);
        line += code[at..start].matches('\n').count();
        at = end;
        Some(Word {
            line,
            start,
            text: &code[start..end],
            before: code[..start].trim_end(),
            after: code[end..].trim_start(),
        })
    })
}

/// After one of these a `::` begins a path instead of going on with one.
const KEYWORDS: [&str; 14] = [
    "as", "dyn", "else", "for", "if", "impl", "in", "let", "match", "mut", "pub", "return", "use", "while",
];

/// Every path in `code`, such as `crate::store::keys`, with the line of its last segment. Each segment
/// ends a path of its own, and groups come out whole: `use a::{b, c::d};` holds `a`, `a::b`, `a::c`
/// and `a::c::d`. A path that begins with `::` keeps it. A single word is one only in `use word`.
pub(crate) fn paths_in(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    // What the names inside each open brace go on from; for a block, nothing.
    let mut braces: Vec<String> = Vec::new();
    let mut path = String::new();
    let mut end_of_last = 0;
    for word in words(code) {
        let between = &code[end_of_last..word.start];
        end_of_last = word.start + word.text.len();
        if between.trim() != "::" || path.is_empty() {
            let mut prefix = if between.trim_start().starts_with("::") {
                path
            } else {
                String::new()
            };
            for c in between.chars() {
                match c {
                    '{' => braces.push(std::mem::take(&mut prefix)),
                    '}' => drop(braces.pop()),
                    _ => {}
                }
            }
            path = braces.last().cloned().unwrap_or_default();
            if path.is_empty() && is_global(between) {
                path.push_str("::");
            }
        }
        if KEYWORDS.contains(&word.text) {
            path.clear();
            continue;
        }
        if !path.is_empty() && !path.ends_with("::") {
            path.push_str("::");
        }
        path.push_str(word.text);
        if path.contains("::") || word.before.ends_with("use") || word.after.starts_with("::") {
            paths.push((word.line, path.clone()));
        }
    }
    paths
}

/// Whether a path that comes after `between` is rooted, as in `(::redis` but not in `Vec::<T>::new`.
fn is_global(between: &str) -> bool {
    between.trim_end().strip_suffix("::").is_some_and(|before| {
        let before = before.trim_end();
        before.ends_with("->") || before.ends_with("=>") || !before.ends_with(['>', ')', ']'])
    })
}

/// The names that `mod` items in `code` declare.
pub(crate) fn modules_declared_in(code: &str) -> BTreeSet<String> {
    let declared = words(code).filter(|word| word.before.ends_with("mod") && word.after.starts_with([';', '{']));
    declared.map(|word| word.text.to_owned()).collect()
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = r##"a /* b /* c */ d */ "e\"f" 'g' '\'' r#"h"i"# br"j" 'k: k // l"##;

    let code = code_of(text);

    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "'k:", "k"]);
    assert_eq!(code.chars().count(), text.chars().count());
}

#[test]
fn paths_come_out_whole_from_groups_and_blocks() {
    let code = "use a::{b, c::{self, d}};\nuse ::e::F;\nfn f() -> ::g::H { i(Vec::<T>::new()); j { k: l::m } }\nuse n;";

    let paths: Vec<_> = paths_in(code)
        .into_iter()
        .map(|(line, path)| format!("{line} {path}"))
        .collect();

    let expected = [
        "1 a",
        "1 a::b",
        "1 a::c",
        "1 a::c::self",
        "1 a::c::d",
        "2 ::e",
        "2 ::e::F",
        "3 ::g",
        "3 ::g::H",
        "3 Vec",
        "3 l",
        "3 l::m",
        "4 n",
    ];
    assert_eq!(paths, expected);
}
