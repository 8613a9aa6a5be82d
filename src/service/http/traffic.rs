//! Counts requests, for the metrics: by route as it was added, never by what was asked for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Method, StatusCode};

use crate::domain::histogram::{Histogram, Reading};

/// How long answers take until their first byte, in seconds.
const BOUNDS: [f64; 11] = [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// What all paths that are no route go by.
const NO_ROUTE: &str = "_other";

type Answers = BTreeMap<(String, &'static str, &'static str), Histogram>;

/// What was answered.
#[derive(Default)]
pub(super) struct Traffic {
    answers: Mutex<Answers>,
}

impl Traffic {
    /// Counts an answer.
    pub(super) fn note(&self, route: Option<&str>, method: &Method, status: StatusCode, took: Duration) {
        let route = route.unwrap_or(NO_ROUTE).to_owned();
        let key = (route, method_name(method), class(status));
        // A histogram is whole at every step, so a panic elsewhere does not spoil it.
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers
            .entry(key)
            .or_insert_with(|| Histogram::new(&BOUNDS))
            .observe(took);
    }

    /// Route, method and class of status, with how long the answers took.
    pub(super) fn read(&self) -> Vec<([String; 3], Reading)> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let labels =
            |(route, method, class): &(String, &str, &str)| [route.clone(), (*method).to_owned(), (*class).to_owned()];
        answers
            .iter()
            .map(|(key, histogram)| (labels(key), histogram.read()))
            .collect()
    }
}

/// A client may make up methods.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "_other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_make_up_makes_no_series() {
        let traffic = Traffic::default();

        for number in 0..100 {
            let method = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
            traffic.note(None, &method, StatusCode::NOT_FOUND, Duration::from_millis(1));
        }
        traffic.note(Some("/v1/tasks/{id}"), &Method::GET, StatusCode::OK, Duration::ZERO);

        let read = traffic.read();
        let labels: Vec<_> = read
            .iter()
            .map(|(labels, reading)| (labels.join(" "), reading.count))
            .collect();
        assert_eq!(
            labels,
            [
                ("/v1/tasks/{id} GET 2xx".to_owned(), 1),
                ("_other _other 4xx".to_owned(), 100)
            ]
        );
    }
}
