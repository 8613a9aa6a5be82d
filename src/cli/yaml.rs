//! Turns YAML into JSON without harming values.
//!
//! A number that is written as JSON would write it comes out as it stands, however big; any other notation comes out in
//! decimals, or is refused where that would lose digits. Only `true` and `false` are booleans, so that `no` stays a
//! country. Anchors and merges are expanded within a budget, so that a small file can not become a huge one.

use std::fmt;
use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::{Location, Spanned};

/// The one document of `source` as JSON, or what is wrong with it and where.
pub(super) fn to_json(source: &str) -> Result<String, String> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: 4_000_000,
            max_nodes: 2_000_000,
            max_depth: 128,
        },
    };
    let root: Spanned<Node> =
        serde_saphyr::from_str_with_options(source, options).map_err(|problem| problem.to_string())?;
    let mut json = String::with_capacity(source.len());
    write(&root, source, &mut json)?;
    Ok(json)
}

/// A value as the parser sees it.
enum Node {
    Null,
    Boolean(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

fn write(node: &Spanned<Node>, source: &str, json: &mut String) -> Result<(), String> {
    match &node.value {
        Node::Null => json.push_str("null"),
        Node::Boolean(value) => json.push_str(if *value { "true" } else { "false" }),
        Node::Unsigned(value) => json.push_str(&as_written(node, source).unwrap_or_else(|| value.to_string())),
        Node::Signed(value) => json.push_str(&as_written(node, source).unwrap_or_else(|| value.to_string())),
        Node::Float(value) => match as_written(node, source).or_else(|| in_decimals(*value)) {
            Some(number) => json.push_str(&number),
            None => {
                return Err(format!(
                    "{} would lose digits; write it in plain decimals, or as a string",
                    at(node.defined)
                ));
            }
        },
        Node::Text(text) => quote(text, json),
        Node::List(entries) => {
            json.push('[');
            for (place, entry) in entries.iter().enumerate() {
                if place > 0 {
                    json.push(',');
                }
                write(entry, source, json)?;
            }
            json.push(']');
        }
        Node::Map(fields) => {
            json.push('{');
            for (place, (key, value)) in fields.iter().enumerate() {
                if place > 0 {
                    json.push(',');
                }
                quote(key, json);
                json.push(':');
                write(value, source, json)?;
            }
            json.push('}');
        }
    }
    Ok(())
}

/// The number as it stands in the file, if JSON has the same notation.
fn as_written(node: &Spanned<Node>, source: &str) -> Option<String> {
    let span = node.defined.span();
    let from = usize::try_from(span.byte_offset()?).ok()?;
    let bytes = usize::try_from(span.byte_len()?).ok()?;
    let text = source.get(from..from.checked_add(bytes)?)?.trim();
    let is_number = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok_and(|value| {
        value
            .get()
            .starts_with(|first: char| first == '-' || first.is_ascii_digit())
    });
    is_number.then(|| text.to_owned())
}

/// A float that a decimal number stands for: up to 2^53, from where on whole numbers fall between.
fn in_decimals(value: f64) -> Option<String> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (value.abs() <= EXACT)
        .then(|| Number::from_f64(value))
        .flatten()
        .map(|number| number.to_string())
}

fn at(location: Location) -> String {
    format!("the number at line {} column {}", location.line(), location.column())
}

fn quote(text: &str, json: &mut String) {
    // Writing to a string does not fail.
    write!(json, "{}", serde_json::Value::from(text)).unwrap_or_default();
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has as well")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Boolean(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Signed(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            list.push(entry);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_look_like() {
        let yaml = "\
# a comment
text: hello
country: no
quoted: '1'
empty:
nothing: ~
yes: true
integer: 123456789012345678901234567890
negative: -9223372036854775809
price: 1.10
tiny: 1e-400
huge: 1e400
hex: 0x1F
half: .5
list: [1, two, [], {}]
block:
  - a: 1
    b: |
      two
      lines
escaped: \"tab\\t \\u00e9\"
1: one
";
        assert_eq!(
            to_json(yaml).unwrap(),
            concat!(
                r#"{"text":"hello","country":"no","quoted":"1","empty":null,"nothing":null,"yes":true,"#,
                r#""integer":123456789012345678901234567890,"negative":-9223372036854775809,"price":1.10,"#,
                r#""tiny":1e-400,"huge":1e400,"hex":31,"half":0.5,"list":[1,"two",[],{}],"#,
                r#""block":[{"a":1,"b":"two\nlines\n"}],"escaped":"tab\t é","1":"one"}"#
            )
        );
    }

    #[test]
    fn anchors_and_merges_are_expanded() {
        let yaml = "base: &base {n: 18446744073709551616, s: x}\nsame: *base\nmore: {<<: *base, s: y}\n";

        assert_eq!(
            to_json(yaml).unwrap(),
            r#"{"base":{"n":18446744073709551616,"s":"x"},"same":{"n":18446744073709551616,"s":"x"},"more":{"s":"y","n":18446744073709551616}}"#
        );
    }

    #[test]
    fn a_number_that_would_lose_digits_is_refused() {
        for number in ["+123456789012345678901234567890", ".inf", "-.inf", ".nan"] {
            let refused = to_json(&format!("a: 1\nn: {number}\n")).unwrap_err();
            assert!(refused.contains("line 2 column 4"), "{number}: {refused}");
        }
    }

    #[test]
    fn json_is_yaml_too() {
        let json = r#"{"a":[1e400,{"b":12345678901234567890123}],"c":"\u00e9\n"}"#;

        assert_eq!(to_json(json).unwrap(), json.replace("\\u00e9", "é"));
    }

    #[test]
    fn what_makes_no_sense_says_where() {
        for yaml in ["a: [1, 2", "a: 1\na: 2\n", "a: 1\n---\nb: 2\n", "a: *unknown\n"] {
            assert!(
                to_json(yaml).unwrap_err().contains("line"),
                "{yaml}: {:?}",
                to_json(yaml)
            );
        }
    }

    #[test]
    fn a_small_file_does_not_become_a_huge_one() {
        let mut yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            writeln!(yaml, "a{level}: &a{level} [{}]", before.trim_end_matches(", ")).unwrap();
        }

        assert!(to_json(&yaml).is_err());
        assert!(to_json(&"[".repeat(100_000)).is_err());
    }
}
